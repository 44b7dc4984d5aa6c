package bind

import "golang.org/x/sys/windows"

// The errors of sockets that the bind tells apart. What syscall calls EADDRINUSE and so on is never an error of Windows.
const (
	errAddrInUse    = windows.WSAEADDRINUSE
	errReserved     = windows.WSAEACCES // Hyper-V keeps ranges of ports to itself, for each family others
	errAddrNotAvail = windows.WSAEADDRNOTAVAIL
	errFamily       = windows.WSAEAFNOSUPPORT
	errProtocol     = windows.WSAEPROTONOSUPPORT
	errNoBuffers    = windows.WSAENOBUFS
	errTooLong      = windows.WSAEMSGSIZE
)
