package main

import (
	"errors"
	"os"
)

const readyPipe = 3

func inherited(fd int) *os.File { return os.NewFile(uintptr(fd), "inherited") }

// detach is for a Windows service to do.
func detach(_ string, _, _ []string, _ bool, _ []*os.File) (*os.Process, error) {
	return nil, errors.New("a daemon in the background is not supported yet on Windows: use --foreground")
}
