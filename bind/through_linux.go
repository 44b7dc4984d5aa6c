//go:build !wice_portable

package bind

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// usable reports whether packets may be sent from the source that the endpoint sticks to. A source names the interface that a datagram has
// arrived through. Without a route through it the kernel refuses for IPv6; for IPv4 it takes the destination to be on that link, and what
// is sent is lost without an error. That is the case of a host that receives through one interface and sends through another, and of one
// that has lost a route but no address. Without one the endpoint lets go of the source. The answer is kept until WireGuard or a change of
// the network clears the source, as asking costs some ten microseconds.
func (s *socket) usable(e *Endpoint, src *local) bool {
	if src.ifindex == 0 || src.addr.Is6() {
		return true
	}
	if e.through.Load() == throughYes {
		return true
	}
	var mark int
	if err := s.raw.Control(func(fd uintptr) { mark, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK) }); err != nil {
		return true // closed
	}
	if leadsThrough(src, e.dst.Addr(), uint32(mark)) {
		e.through.Store(throughYes)
		return true
	}
	e.through.Store(throughNo)
	e.src.CompareAndSwap(src, nil)
	return false
}

// leadsThrough reports whether there is a route to dst through the interface of src. When it can't be told it reports true.
func leadsThrough(src *local, dst netip.Addr, mark uint32) bool {
	_, err := netlink.RouteGetWithOptions(dst.AsSlice(), &netlink.RouteGetOptions{
		OifIndex: int(src.ifindex),
		SrcAddr:  src.addr.AsSlice(),
		Mark:     mark,
		FIBMatch: true, // the route, not what the kernel takes in place of a missing one
	})
	return !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH)
}
