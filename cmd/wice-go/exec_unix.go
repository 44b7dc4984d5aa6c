//go:build unix

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// passedOn are the signals that a command of "exec" gets as if they had been sent to it.
var passedOn = []os.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2}

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
