package bind

import (
	"net/netip"
	"runtime"
	"sync"
	"testing"

	"github.com/pion/stun"
	"golang.zx2c4.com/wireguard/conn"
)

// floodSource is the n-th source of a flood, of either family; one in some has a scope.
func floodSource(n int) source {
	if n%2 == 0 {
		return sourceOf(nthAddr(n))
	}
	s := source{addr: [16]byte{0xfe, 0x80, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)}, port: uint16(n)}
	if n%3 == 0 {
		s.scope = 1
	}
	return s
}

// heap is what is in use after the garbage is gone, pools included.
func heap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestSpoofedFlood has a quarter of a million sources send what has WireGuard's shape, and STUN for an agent and for nobody. Nothing
// grows, and two peers go on as before: one that ICE has connected, and a plain one.
func TestSpoofedFlood(t *testing.T) {
	const rounds, perRound = 32, 8192
	a, b := newNode(t, 1, Options{}), newNode(t, 2, Options{})
	plain := newNode(t, 3, Options{})
	ea, eb := a.know(t, b, netip.AddrPort{}), b.know(t, a, netip.AddrPort{})
	ea.SetPath(NewDirectPath(netip.Addr{}, b.addr()))
	eb.SetPath(NewDirectPath(netip.Addr{}, a.addr()))
	plain.know(t, b, b.addr())
	b.know(t, plain, plain.addr())
	b.bind.RemovePeer(plain.key.Public()) // know has made an endpoint that WireGuard does not have
	agent := muxConnOf(t, &testBind{Bind: b.bind}, "agent", "127.0.0.1")
	defer agent.Close()
	talk := func() {
		t.Helper()
		a.ping(t, b)
		b.ping(t, a)
		plain.ping(t, b)
		b.ping(t, plain)
	}
	talk()

	d := &demux{table: b.bind.table, cache: b.bind.cache, mux: b.bind.mux, stats: &b.bind.stats}
	ours := local{addr: netip.MustParseAddr("127.0.0.1"), ifindex: 1}
	known := b.bind.table.lookup(sourceOf(a.addr()))
	flood := func(round int) {
		var senders sync.WaitGroup
		for half := range 2 { // as the receivers of both families
			senders.Go(func() {
				forAgent := bindingRequest(t, stun.NewUsername("agent:x"))
				answer, err := stun.Build(stun.TransactionID, stun.BindingSuccess)
				if err != nil {
					t.Error(err)
					return
				}
				for i := half; i < perRound; i += 2 {
					n := round*perRound + i
					s := floodSource(n)
					for kind := range byte(typeTransport) {
						p := transport(initiationSize, uint32(n))
						p[0] = kind + 1
						ep, ok := d.route(p, &origin{source: s, local: ours}).(*Endpoint)
						if !ok || ep.DstIP() != s.addrPort().Addr() {
							t.Errorf("source %s: got %v", s.addrPort(), ep)
							return
						}
					}
					for _, p := range [][]byte{forAgent, bindingRequest(t, stun.NewUsername("nobody:x")), answer.Raw} {
						if ep := d.route(p, &origin{source: s, local: ours}); ep != nil {
							t.Errorf("STUN came to WireGuard with %v", ep)
						}
					}
				}
			})
		}
		senders.Wait()
		if got := d.route(transport(64, 1), &origin{source: sourceOf(a.addr()), local: ours}); got != conn.Endpoint(known) {
			t.Errorf("round %d: the peer's packet comes with %v", round, got)
		}
	}
	flood(0) // fills the cache
	talk()
	before := heap()
	for round := 1; round < rounds; round++ {
		flood(round)
		if round%8 == 0 {
			talk()
		}
	}
	if grown := heap() - before; grown > 4<<20 {
		t.Errorf("the heap has grown by %d KiB for %d sources", grown>>10, (rounds-1)*perRound)
	} else {
		t.Logf("the heap has grown by %d KiB", grown>>10)
	}
	talk()
	if b.bind.table.lookup(sourceOf(a.addr())) != known || known != eb {
		t.Error("the peer has lost its source")
	}
	b.bind.peersMu.Lock()
	peers := len(b.bind.peers)
	b.bind.peersMu.Unlock()
	if peers != 1 || b.bind.table.size != 1 {
		t.Errorf("%d peers and %d sources, want one", peers, b.bind.table.size)
	}
	m := b.bind.mux
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.conns["agent"][0]; len(m.conns) != 1 || len(c.remotes) != 0 || len(m.tx.young)+len(m.tx.old) != 0 || len(m.mappings) != 0 {
		t.Errorf("%d fragments, %d remotes, %d transactions, %d mappings", len(m.conns), len(c.remotes), len(m.tx.young)+len(m.tx.old), len(m.mappings))
	}
}
