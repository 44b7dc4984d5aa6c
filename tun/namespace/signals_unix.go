//go:build unix

package namespace

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// CatchSignals sends to c the signals that are meant for a command rather than for those who wait for its end. What is ignored stays so, for the
// command too, as nohup wants it.
func CatchSignals(c chan<- os.Signal) {
	for _, s := range []os.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2} {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
}
