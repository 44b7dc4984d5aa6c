//go:build !wice_portable

package bind

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// source returns what to send from, nil for the kernel's choice. The source that an endpoint sticks to names the interface that a datagram
// has arrived through, which is not always one to answer through:
//
//   - Another address of this host is reached through none. Told to use one, the kernel follows the default route there, and what is sent is
//     lost without an error. Then the source is the address alone.
//   - Without a route through it the kernel refuses for IPv6; for IPv4 it takes the destination to be on that link, and what is sent is lost
//     too. That is the case of a host that receives through one interface and sends through another, and of one that has lost a route but no
//     address. Without one the endpoint lets go of the source.
//
// The answer is kept until WireGuard or a change of the network clears the source, as asking costs some ten microseconds.
func (s *socket) source(e *Endpoint) *local {
	src := e.src.Load()
	if src == nil || src.ifindex == 0 || e.through.Load() == throughYes {
		return src
	}
	dst := e.dst.Addr()
	if dst.Is6() && dst.IsLinkLocalUnicast() {
		return src // without its interface it is no address at all
	}
	var mark int
	if err := s.raw.Control(func(fd uintptr) { mark, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK) }); err != nil {
		return src // closed
	}
	switch {
	case onThisHost(dst, uint32(mark)):
		alone := &local{addr: src.addr}
		e.src.CompareAndSwap(src, alone)
		return alone
	case src.addr.Is6() || leadsThrough(src, dst, uint32(mark)):
		e.through.Store(throughYes)
		return src
	}
	e.through.Store(throughNo)
	e.src.CompareAndSwap(src, nil)
	return nil
}

// onThisHost reports whether dst is an address of this host. When it can't be told it reports false.
func onThisHost(dst netip.Addr, mark uint32) bool {
	routes, err := netlink.RouteGetWithOptions(dst.AsSlice(), &netlink.RouteGetOptions{Mark: mark})
	return err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL
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
