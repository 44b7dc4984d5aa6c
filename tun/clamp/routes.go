package clamp

import (
	"maps"
	"net/netip"
	"slices"
)

// routes finds the peer of an address. It is immutable.
type routes struct {
	v4, v6 []level // the longest prefixes first
}

// level has the prefixes of one length.
type level struct {
	bits  int
	peers map[netip.Addr]*Peer // by the masked address
}

func newRoutes(peers map[netip.Prefix]*Peer) *routes {
	levels := make(map[netip.Prefix]*level) // of each length, by the prefix of it that has the zero address
	for prefix, peer := range peers {
		prefix = prefix.Masked()
		zero := netip.IPv6Unspecified()
		if prefix.Addr().Is4() {
			zero = netip.IPv4Unspecified()
		}
		of := netip.PrefixFrom(zero, prefix.Bits())
		if levels[of] == nil {
			levels[of] = &level{bits: prefix.Bits(), peers: make(map[netip.Addr]*Peer)}
		}
		levels[of].peers[prefix.Addr()] = peer
	}
	r := new(routes)
	for _, of := range slices.SortedFunc(maps.Keys(levels), func(a, b netip.Prefix) int { return b.Bits() - a.Bits() }) {
		if of.Addr().Is4() {
			r.v4 = append(r.v4, *levels[of])
		} else {
			r.v6 = append(r.v6, *levels[of])
		}
	}
	return r
}

// limit returns the limit of the peer that has the address, 0 if there is none.
func (r *routes) limit(a netip.Addr) int {
	levels := r.v6
	if a.Is4() {
		levels = r.v4
	}
	for i := range levels {
		prefix, err := a.Prefix(levels[i].bits)
		if err != nil {
			continue
		}
		if p, ok := levels[i].peers[prefix.Addr()]; ok {
			if p == nil {
				return 0
			}
			return p.Limit()
		}
	}
	return 0
}
