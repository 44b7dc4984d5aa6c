//go:build unix

package main

import (
	"os"
	"syscall"
)

// readyPipe is the descriptor that the daemon finds the first pipe at: the first after the three standard ones.
const readyPipe = 3

// openPipe returns the file of an inherited descriptor. The daemon's own children do not inherit it: one in the background would keep the
// command that started the daemon waiting for its end.
func openPipe(fd int) *os.File {
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "pipe")
}

// detach starts a program in a session of its own, without a terminal, with variables that win over those of the environment, and with pipes as
// descriptors from readyPipe on.
func detach(exe string, args, env []string, pipes []*os.File) (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	return os.StartProcess(exe, append([]string{exe}, args...), &os.ProcAttr{
		Env:   append(env, os.Environ()...), // the first value of a variable counts
		Files: append([]*os.File{null, null, null}, pipes...),
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
}
