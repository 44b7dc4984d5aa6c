package main

import (
	"errors"
	"os"
)

const readyPipe = 3

func openPipe(fd int) *os.File { return os.NewFile(uintptr(fd), "pipe") }

// detach is for a Windows service to do.
func detach(string, []string, []string, []*os.File) (*os.Process, error) {
	return nil, errors.New("a daemon in the background is not supported yet on Windows: use \"wice-go up --foreground\"")
}
