package device

import (
	"iter"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// all returns what is in the tree.
func (t *prefixes[V]) all() iter.Seq2[netip.Prefix, *V] {
	return func(yield func(netip.Prefix, *V) bool) {
		var walk func(n *prefixNode[V]) bool
		walk = func(n *prefixNode[V]) bool {
			return n == nil || (n.value == nil || yield(n.prefix, n.value)) && walk(n.below[0]) && walk(n.below[1])
		}
		_ = walk(t.v4.Load()) && walk(t.v6.Load())
	}
}

// TestPrefixes compares the tree with a plain map.
func TestPrefixes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	address := func() netip.Addr {
		// Few bits differ, so that prefixes cover each other.
		b := byte(random.IntN(4) * 85)
		switch random.IntN(3) {
		case 0:
			return netip.AddrFrom4([4]byte{b, 0, 1, byte(random.IntN(8))})
		case 1:
			return netip.AddrFrom16([16]byte{b, 9: byte(random.IntN(4)), 15: byte(random.IntN(8))})
		}
		return netip.AddrFrom16([16]byte{10: 255, 11: 255, 12: b, 15: byte(random.IntN(8))}) // an IPv6 prefix with an IPv4 address in it
	}
	var tree prefixes[int]
	plain := make(map[netip.Prefix]*int)
	for i := range 20_000 {
		a := address()
		p := netip.PrefixFrom(a, []int{0, 1, 8, 24, 30, a.BitLen() - 1, a.BitLen()}[random.IntN(7)]).Masked()
		if random.IntN(3) > 0 {
			tree.set(p, &i)
			plain[p] = &i
		} else {
			tree.set(p, nil)
			delete(plain, p)
		}
		p = netip.PrefixFrom(address(), random.IntN(33)).Masked()
		if got := tree.get(p); got != plain[p] {
			t.Fatalf("%s: got %v, want %v", p, got, plain[p])
		}
		a = address()
		var want *int
		for bits := a.BitLen(); bits >= 0 && want == nil; bits-- {
			want = plain[netip.PrefixFrom(a, bits).Masked()]
		}
		if got := tree.find(a); got != want {
			t.Fatalf("%s: got %v, want %v", a, got, want)
		}
	}
	for p, v := range tree.all() {
		if plain[p] != v {
			t.Errorf("%s: got %v, want %v", p, v, plain[p])
		}
		delete(plain, p)
	}
	if len(plain) > 0 {
		t.Errorf("lost: %v", plain)
	}
	for p := range tree.all() {
		tree.set(p, nil)
	}
	if tree.v4.Load() != nil || tree.v6.Load() != nil {
		t.Error("an empty tree has nodes")
	}
	if n := testing.AllocsPerRun(100, func() { tree.find(netip.IPv6Loopback()) }); n > 0 {
		t.Errorf("find: %v allocs", n)
	}
}
