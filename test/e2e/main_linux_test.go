package e2e

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wice-go/wice-go/test/program"
)

// programs is where the programs under test are built; constant after TestMain.
var programs string

// TestMain builds wice-go once, as a user would. The race detector slows the daemons down so much that no figure means anything: it
// watches them only with E2E_RACE=1 in the environment. A client of wgctrl is this program too.
func TestMain(m *testing.M) {
	if operation := os.Getenv(wgctrlVariable); operation != "" {
		if err := beWgctrl(operation); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run() // every test says what it lacks
	}
	// What was ignored when the tests began, as with nohup or behind an "&", would be ignored by all that they start.
	for _, s := range []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
	dir, err := os.MkdirTemp("", "wice-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// The tests that run as another user reach the program too.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	programs = dir
	var flags []string
	if os.Getenv("E2E_RACE") == "1" {
		flags = append(flags, "-race")
	}
	if err := program.Build(wiceGo(), program.WiceGo, flags...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// wiceGo is the path of the program under test.
func wiceGo() string { return filepath.Join(programs, "wice-go") }

// wireguardGo builds the plain wireguard-go of this module's dependency, once, and returns its path.
var wireguardGo = sync.OnceValues(func() (string, error) {
	path := filepath.Join(programs, "wireguard-go")
	return path, program.Build(path, program.WireGuardGo)
})
