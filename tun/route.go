package tun

import (
	"cmp"
	"net/netip"
	"slices"
)

// sortRoutes sorts by falling prefix length, then by address, and drops repetitions. It works in place.
func sortRoutes(routes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(routes, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(b.Bits(), a.Bits()), a.Addr().Compare(b.Addr()))
	})
	return slices.Compact(routes)
}

// diffRoutes returns what is in to but not in from, and what is in from but not in to.
func diffRoutes(from, to []netip.Prefix) (added, removed []netip.Prefix) {
	old := make(map[netip.Prefix]bool, len(from))
	for _, p := range from {
		old[p] = true
	}
	for _, p := range to {
		if !old[p] {
			added = append(added, p)
		}
		delete(old, p)
	}
	for _, p := range from {
		if old[p] {
			removed = append(removed, p)
		}
	}
	return added, removed
}

// cover is the set of an interface's routes, asked whether one of them contains a prefix.
type cover map[netip.Prefix]bool

// contains reports whether a route of the set is p or contains p. The cost is one lookup for each bit of p, whatever the
// size of the set: a hub can have 100,000 routes.
func (c cover) contains(p netip.Prefix) bool {
	for bits := p.Bits(); bits >= 0; bits-- {
		if q, err := p.Addr().Prefix(bits); err == nil && c[q] {
			return true
		}
	}
	return false
}
