package main

import (
	"os"
	"os/signal"
)

// catchSignals sends to c the signals that are meant for the command.
func catchSignals(c chan<- os.Signal) { signal.Notify(c, os.Interrupt) }

// inForeground is true: a console tells all its programs of Ctrl-C.
func inForeground() bool { return true }
