package tun

import (
	"os"

	"golang.org/x/sys/unix"
)

// LinkUp reports whether the link of a TUN device is up, in whatever namespace it is, by its file; known is false where the file doesn't tell.
// wireguard-go's own events don't say it on Linux: it writes nothing to the file, which is wrong with IFF_VNET_HDR whether the link is up or
// not, and takes that for up.
func LinkUp(file *os.File) (up, known bool) {
	raw, err := file.SyscallConn()
	if err != nil {
		return false, false
	}
	// The kernel calls the file writable only while the link is up (tun_chr_poll).
	poll := []unix.PollFd{{Events: unix.POLLOUT}}
	n := -1
	err = raw.Control(func(fd uintptr) {
		poll[0].Fd = int32(fd)
		n, _ = unix.Poll(poll, 0)
	})
	if err != nil || n < 0 || poll[0].Revents&(unix.POLLERR|unix.POLLNVAL) != 0 {
		return false, false
	}
	return poll[0].Revents&unix.POLLOUT != 0, true
}
