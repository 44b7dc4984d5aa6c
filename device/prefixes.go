package device

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"sync/atomic"
)

// prefixes finds the longest prefix of an address. Finding takes no lock, as packets do it: a change copies the nodes on the way to
// what changes, and puts the new root in the place of the old one. Changes are made one at a time. The zero value is empty.
type prefixes[V any] struct{ v4, v6 atomic.Pointer[prefixNode[V]] }

// prefixNode is a node of a radix tree: what is below it has its prefix. It is immutable.
type prefixNode[V any] struct {
	prefix netip.Prefix // masked
	value  *V           // nil: the tree only parts here
	below  [2]*prefixNode[V]
}

func (t *prefixes[V]) root(a netip.Addr) *atomic.Pointer[prefixNode[V]] {
	if a.Is4() {
		return &t.v4
	}
	return &t.v6
}

// find returns what the longest prefix of the address has, nil without one.
func (t *prefixes[V]) find(a netip.Addr) (found *V) {
	for n := t.root(a).Load(); n != nil && n.prefix.Contains(a); n = n.below[bit(a, n.prefix.Bits())] {
		if n.value != nil {
			found = n.value
		}
		if n.prefix.IsSingleIP() {
			break
		}
	}
	return found
}

// get returns what the prefix itself has, nil if it is not there.
func (t *prefixes[V]) get(p netip.Prefix) *V {
	n := t.root(p.Addr()).Load()
	for n != nil && n.holds(p) && n.prefix != p {
		n = n.below[bit(p.Addr(), n.prefix.Bits())]
	}
	if n == nil || n.prefix != p {
		return nil
	}
	return n.value
}

// set gives the prefix, which is masked, a value; nil removes it.
func (t *prefixes[V]) set(p netip.Prefix, v *V) {
	root := t.root(p.Addr())
	if v == nil {
		root.Store(root.Load().without(p))
	} else {
		root.Store(root.Load().with(p, v))
	}
}

func (n *prefixNode[V]) holds(p netip.Prefix) bool {
	return n.prefix.Bits() <= p.Bits() && n.prefix.Contains(p.Addr())
}

func (n *prefixNode[V]) with(p netip.Prefix, v *V) *prefixNode[V] {
	switch {
	case n == nil:
		return &prefixNode[V]{prefix: p, value: v}
	case n.prefix == p:
		return &prefixNode[V]{p, v, n.below}
	case n.holds(p):
		c := *n
		next := &c.below[bit(p.Addr(), n.prefix.Bits())]
		*next = (*next).with(p, v)
		return &c
	}
	common := min(commonBits(n.prefix.Addr(), p.Addr()), n.prefix.Bits(), p.Bits())
	above := &prefixNode[V]{prefix: netip.PrefixFrom(p.Addr(), common).Masked()}
	above.below[bit(n.prefix.Addr(), common)] = n
	return above.with(p, v)
}

func (n *prefixNode[V]) without(p netip.Prefix) *prefixNode[V] {
	if n == nil || !n.holds(p) {
		return n
	}
	c := *n
	if n.prefix == p {
		c.value = nil
	} else {
		next := &c.below[bit(p.Addr(), n.prefix.Bits())]
		*next = (*next).without(p)
	}
	switch {
	case c.value != nil:
	case c.below[0] == nil:
		return c.below[1]
	case c.below[1] == nil:
		return c.below[0]
	}
	return &c
}

// bit returns the i-th bit of the address, counted from the front.
func bit(a netip.Addr, i int) byte {
	b := a.As16()
	i += 128 - a.BitLen()
	return b[i/8] >> (7 - i%8) & 1
}

// commonBits returns how many bits at the front two addresses of one family share.
func commonBits(a, b netip.Addr) int {
	x, y := a.As16(), b.As16()
	n := bits.LeadingZeros64(binary.BigEndian.Uint64(x[:8]) ^ binary.BigEndian.Uint64(y[:8]))
	if n == 64 {
		n += bits.LeadingZeros64(binary.BigEndian.Uint64(x[8:]) ^ binary.BigEndian.Uint64(y[8:]))
	}
	return n - (128 - a.BitLen())
}
