//go:build unix

package main

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/wice-go/wice-go/tun/namespace"
)

// catchSignals sends to c the signals that are meant for the command.
func catchSignals(c chan<- os.Signal) { namespace.CatchSignals(c) }

// inForeground reports whether keys that make signals are for this process group, and so for the command too.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
