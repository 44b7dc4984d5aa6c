package tun

import (
	"net"
	"net/netip"
)

// toIPNet and toPrefix convert at the border to the netlink library.
func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// toPrefix returns the zero Prefix for what is none, such as nil.
func toPrefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	bits, size := n.Mask.Size()
	ip, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	if size == 32 {
		ip = ip.Unmap()
	}
	return netip.PrefixFrom(ip, bits)
}
