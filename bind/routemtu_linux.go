package bind

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// routeMTU returns the MTU in bytes that the kernel would send a datagram from src to dst with: that of the route or the interface,
// or less where a router has said so in the last minutes.
func routeMTU(src netip.Addr, dst netip.AddrPort, control controlFunc) (mtu int, err error) {
	c, err := dialRoute(src, dst, control)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) {
		if dst.Addr().Is4() {
			mtu, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU)
		} else {
			mtu, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU)
		}
	})
	if cerr != nil {
		return 0, cerr
	}
	return mtu, err
}
