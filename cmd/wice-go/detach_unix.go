//go:build unix

package main

import (
	"os"
	"syscall"
)

// readyPipe is the descriptor that the daemon finds the first pipe at: the first after the three standard ones.
const readyPipe = 3

// inherited returns the file of an inherited descriptor, nil if there can't be one. Children do not inherit it by themselves: one of the daemon
// would keep the command that started the daemon waiting for its end.
func inherited(fd int) *os.File {
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "inherited")
}

// detach starts a program in a session of its own, without a terminal, with that environment, and with files as descriptors from readyPipe on.
// Its output goes where that of this program goes, or nowhere.
func detach(exe string, args, env []string, output bool, files []*os.File) (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	std := []*os.File{null, null, null}
	if output {
		std[1], std[2] = os.Stdout, os.Stderr
	}
	return os.StartProcess(exe, append([]string{exe}, args...), &os.ProcAttr{
		Env:   env,
		Files: append(std, files...),
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
}
