//go:build darwin || freebsd

package control

import "golang.org/x/sys/unix"

// solLocal is the level of options of local sockets; FreeBSD has no constant of that name (sys/un.h: SOL_LOCAL is 0 there too).
const solLocal = 0

// peerUID returns the user at the other end, as unix(4) describes for LOCAL_PEERCRED.
func peerUID(fd int) (uint32, error) {
	cred, err := unix.GetsockoptXucred(fd, solLocal, unix.LOCAL_PEERCRED)
	if err != nil {
		return 0, err
	}
	return cred.Uid, nil
}
