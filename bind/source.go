package bind

import (
	"net"
	"net/netip"
	"strconv"
)

// source is a datagram's remote address as a key without pointers, so that it hashes and compares without an allocation.
// IPv4 addresses are in their IPv6-mapped form; the IPv6 socket is IPv6-only, so that both can't meet.
type source struct {
	addr  [16]byte
	scope uint32 // interface index of a link-local IPv6 address, else 0
	port  uint16
}

func sourceOf(ap netip.AddrPort) source {
	s := source{addr: ap.Addr().As16(), port: ap.Port()}
	if z := ap.Addr().Zone(); z != "" {
		s.scope = scopeOf(z)
	}
	return s
}

// addrPort is the inverse of sourceOf. A scope becomes a numeric zone: getaddrinfo understands it, and so does [ParseEndpoint].
func (s source) addrPort() netip.AddrPort {
	a := netip.AddrFrom16(s.addr).Unmap()
	if s.scope != 0 {
		a = a.WithZone(strconv.FormatUint(uint64(s.scope), 10))
	}
	return netip.AddrPortFrom(a, s.port)
}

// unmapPort makes every address that comes from outside the package comparable.
func unmapPort(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// local is the address of this host that a datagram was sent to or is to be sent from. The zero value leaves the choice to the
// kernel.
type local struct {
	addr    netip.Addr // without a zone
	ifindex int32      // 0: any; else the route has to leave through that interface
}

// scopeOf returns the interface index that a zone stands for: a number, or the name of an interface; 0 if there is none.
func scopeOf(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	return 0
}
