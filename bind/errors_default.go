//go:build !windows

package bind

import "syscall"

// The errors of sockets that the bind tells apart.
const (
	errAddrInUse    = syscall.EADDRINUSE
	errReserved     = syscall.EADDRINUSE // no port is kept from all
	errAddrNotAvail = syscall.EADDRNOTAVAIL
	errFamily       = syscall.EAFNOSUPPORT
	errProtocol     = syscall.EPROTONOSUPPORT
	errNoBuffers    = syscall.ENOBUFS
	errTooLong      = syscall.EMSGSIZE
)
