package bind

import (
	"net/netip"
	"sync"
	"testing"

	"github.com/wice-go/wice-go/proto/key"
)

func nthAddr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 51820)
}

// TestTableGrows fills the table while it is read, and empties it again.
func TestTableGrows(t *testing.T) {
	const n = 100_000
	b := New(Options{})
	peers := make([]*PeerEndpoint, n)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if e := b.table.lookup(sourceOf(nthAddr(0))); e != nil && e != peers[0] {
				t.Error("wrong peer")
			}
		}
	})
	key := func(i int) (k key.Public) {
		k[0], k[1], k[2] = byte(i), byte(i>>8), byte(i>>16)
		return k
	}
	peers[0] = b.Peer(key(0))
	for i := range n {
		if i > 0 {
			peers[i] = b.Peer(key(i))
		}
		peers[i].SetPath(NewDirectPath(netip.Addr{}, nthAddr(i)))
	}
	for i := range n {
		if b.table.lookup(sourceOf(nthAddr(i))) != peers[i] {
			t.Fatalf("peer %d not found", i)
		}
	}
	close(stop)
	readers.Wait()
	for i := range n {
		b.RemovePeer(key(i))
	}
	if b.table.size != 0 || len(b.table.claims) != 0 {
		t.Errorf("%d nodes and %d claims are left", b.table.size, len(b.table.claims))
	}
}

// TestClaims is about a source that several peers have.
func TestClaims(t *testing.T) {
	b := New(Options{})
	defer b.Shutdown()
	at := netip.MustParseAddrPort("192.0.2.1:51820")
	elsewhere := netip.MustParseAddrPort("192.0.2.2:51820")
	one, two := b.Peer(testKey(1)), b.Peer(testKey(2))
	want := func(what string, e *PeerEndpoint) {
		t.Helper()
		if got := b.table.lookup(sourceOf(at)); got != e {
			t.Errorf("%s: got %p, want %p", what, got, e)
		}
	}
	want("none", nil)
	one.SetPath(NewStaticPath(at))
	want("one configured", one)
	two.SetPath(NewStaticPath(at))
	want("two configured", nil)
	two.SetPath(NewDirectPath(netip.Addr{}, at))
	want("two proven", two)
	one.SetPath(NewDirectPath(netip.Addr{}, at))
	want("one proven later", one)
	b.RemovePeer(testKey(1))
	want("one removed", two)
	two.SetPath(NewDirectPath(netip.Addr{}, elsewhere))
	want("two moved, in the grace period", two)
	b.RemovePeer(testKey(2))
	want("all removed", nil)
}

// TestCacheIsBounded floods the cache with sources, and checks that an entry is found again without an allocation.
func TestCacheIsBounded(t *testing.T) {
	c := newEndpointCache()
	l := local{addr: netip.MustParseAddr("192.0.2.9"), ifindex: 3}
	for i := range 50_000 {
		c.get(sourceOf(nthAddr(i)), l)
	}
	n := 0
	for i := range c.sets {
		for j := range c.sets[i] {
			if c.sets[i][j].Load() != nil {
				n++
			}
		}
	}
	if n > cacheSets*cacheWays || n < cacheSets*cacheWays/2 {
		t.Errorf("%d entries, want at most %d", n, cacheSets*cacheWays)
	}
	s := sourceOf(nthAddr(1))
	e := c.get(s, l)
	if n := testing.AllocsPerRun(100, func() {
		if c.get(s, l) != e {
			t.Error("another endpoint for the same source")
		}
	}); n > 0 {
		t.Errorf("%v allocations per hit, want 0", n)
	}
	// The same source at another address of ours is another endpoint, and leaves the first one as it is.
	other := c.get(s, local{addr: netip.MustParseAddr("192.0.2.10")})
	if other == e || e.SrcIP() != l.addr || other.SrcIP() == l.addr {
		t.Errorf("got sources %s and %s", e.SrcIP(), other.SrcIP())
	}
	// A cleared source comes back with the next datagram.
	e.ClearSrc()
	if e.SrcIP().IsValid() {
		t.Error("source not cleared")
	}
	if c.get(s, l) != e || e.SrcIP() != l.addr {
		t.Errorf("got source %s, want %s", e.SrcIP(), l.addr)
	}
	c.clearSources()
	if e.SrcIP().IsValid() {
		t.Error("source not cleared")
	}
}

func TestSourceKey(t *testing.T) {
	for _, s := range []string{"192.0.2.1:1", "[2001:db8::1]:65535", "[fe80::1%2]:9"} {
		ap := netip.MustParseAddrPort(s)
		if got := sourceOf(ap).addrPort(); got != ap {
			t.Errorf("got %s, want %s", got, ap)
		}
	}
}
