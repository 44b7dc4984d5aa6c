package main

import "os"

// passedOn are the signals that a command of "exec" gets as if they had been sent to it.
var passedOn = []os.Signal{os.Interrupt}

// inForeground is true: a console tells all its programs of Ctrl-C.
func inForeground() bool { return true }
