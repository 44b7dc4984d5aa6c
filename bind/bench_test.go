package bind

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun"
	"golang.zx2c4.com/wireguard/conn"
)

var (
	// benchSizes are a packet that carries next to nothing, and a full one of a tunnel with an MTU of 1420.
	benchSizes   = []int{64, 1452}
	benchBatches = []int{1, 8, 64, 128}
)

// benchFamilies are the addresses of this machine, in the order in which both binds return their ReceiveFuncs.
var benchFamilies = []struct {
	name string
	addr netip.Addr
}{
	{"IPv4", netip.AddrFrom4([4]byte{127, 0, 0, 1})},
	{"IPv6", netip.IPv6Loopback()},
}

// binds are the two that are compared.
var binds = []struct {
	name string
	make func() conn.Bind
}{
	{"wice", func() conn.Bind { return New(Options{}) }},
	{"stock", conn.NewDefaultBind},
}

// eachBind runs a benchmark for everything that both binds can be given, with the two next to each other.
func eachBind(b *testing.B, prefix string, run func(b *testing.B, bind conn.Bind, family, size, batch int)) {
	for family, f := range benchFamilies {
		for _, size := range benchSizes {
			for _, batch := range benchBatches {
				for _, kind := range binds {
					b.Run(fmt.Sprintf("%s%s/size=%d/batch=%d/%s", prefix, f.name, size, batch, kind.name), func(b *testing.B) {
						run(b, kind.make(), family, size, batch)
					})
				}
			}
		}
	}
}

// sink is a UDP socket that nobody reads: what it can't hold the kernel drops.
func sink(b *testing.B, addr netip.Addr) netip.AddrPort {
	c := udpConn(b, netip.AddrPortFrom(addr, 0).String())
	c.SetReadBuffer(1 << 12)
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func BenchmarkSendDirect(b *testing.B) {
	eachBind(b, "", func(b *testing.B, bind conn.Bind, family, size, batch int) {
		if _, _, err := bind.Open(0); err != nil {
			b.Fatal(err)
		}
		defer bind.Close()
		ep, err := bind.ParseEndpoint(sink(b, benchFamilies[family].addr).String())
		if err != nil {
			b.Fatal(err)
		}
		bufs, packets := make([][]byte, batch), make([][]byte, batch)
		for i := range packets {
			// As in WireGuard there is room behind the packet, which the stock bind gathers in.
			packets[i] = transport(1<<16-1, uint32(i))[:size]
		}
		b.SetBytes(int64(size))
		b.ReportAllocs()
		for i := 0; i < b.N; i += batch {
			copy(bufs, packets)
			if err := bind.Send(bufs, ep); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkReceiveBatch(b *testing.B) {
	for _, coalesced := range []bool{true, false} {
		if coalesced && !joins {
			continue
		}
		eachBind(b, fmt.Sprintf("gso=%t/", coalesced), func(b *testing.B, bind conn.Bind, family, size, batch int) {
			benchReceive(b, bind, family, coalesced, size, batch)
		})
	}
}

// benchReceive sends a burst, and measures how long it takes to receive it. It has a clock of its own: the benchmark's takes longer to stop
// than a packet to arrive.
func benchReceive(b *testing.B, bind conn.Bind, family int, coalesced bool, size, batch int) {
	fns, port, err := bind.Open(0)
	if err != nil {
		b.Fatal(err)
	}
	defer bind.Close()
	src := New(Options{})
	if _, _, err := src.Open(0); err != nil {
		b.Fatal(err)
	}
	defer src.Shutdown()
	if s := src.socks.Load(); !coalesced {
		disableGSO(s.v4)
		disableGSO(s.v6)
	}
	ep, err := src.ParseEndpoint(netip.AddrPortFrom(benchFamilies[family].addr, port).String())
	if err != nil {
		b.Fatal(err)
	}
	out := make([][]byte, batch)
	for i := range out {
		out[i] = transport(size, uint32(i))
	}
	bufs, sizes, eps := newBatch(bind.BatchSize())
	b.ReportAllocs()
	b.ResetTimer()
	calls, done := 0, 0
	var took time.Duration
	for ; done < b.N; done += batch {
		if err := src.Send(out, ep); err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		for n := 0; n < batch; calls++ {
			k, err := fns[family](bufs, sizes, eps)
			if err != nil {
				b.Fatal(err)
			}
			for _, s := range sizes[:k] {
				if s > 0 {
					n++
				}
			}
		}
		took += time.Since(start)
	}
	b.ReportMetric(float64(took.Nanoseconds())/float64(done), "ns/op")
	b.ReportMetric(float64(done*size)/1e6/took.Seconds(), "MB/s")
	b.ReportMetric(float64(calls)/float64(done), "calls/op")
}

// BenchmarkLookup looks up the endpoint for a datagram's source: of peers in random order, so that big tables leave the processor's cache,
// and of strangers.
func BenchmarkLookup(b *testing.B) {
	for _, peers := range []int{1, 1_000, 10_000, 100_000} {
		t := newSourceTable()
		known, strangers := make([]source, peers), make([]source, peers)
		for i := range peers {
			path := NewDirectPath(netip.Addr{}, nthAddr(i))
			t.add(new(PeerEndpoint), path)
			known[i], strangers[i] = path.dst.key, sourceOf(nthAddr(peers+i))
		}
		rand.Shuffle(peers, func(i, j int) { known[i], known[j] = known[j], known[i] })
		for _, c := range []struct {
			name    string
			sources []source
			found   bool
		}{{"peer", known, true}, {"stranger", strangers, false}} {
			b.Run(fmt.Sprintf("peers=%d/%s", peers, c.name), func(b *testing.B) {
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					if (t.lookup(c.sources[i]) != nil) != c.found {
						b.Fatalf("got found %t for %v", !c.found, c.sources[i].addrPort())
					}
					if i++; i == peers {
						i = 0
					}
				}
			})
		}
	}
}

// BenchmarkClassify tells who a datagram is for. Garbage looks like nothing until its last test.
func BenchmarkClassify(b *testing.B) {
	request := bindingRequest(b, stun.NewUsername("abcd:efgh"), stun.Fingerprint)
	garbage := append([]byte(nil), request...)
	garbage[3]++ // a length that is not the datagram's
	for _, c := range []struct {
		name   string
		packet []byte
		want   packetKind
	}{
		{"WireGuard", transport(1452, 1), kindWireGuard},
		{"STUN", request, kindSTUN},
		{"garbage", garbage, kindOther},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if got := classify(c.packet); got != c.want {
					b.Fatalf("got %d, want %d", got, c.want)
				}
			}
		})
	}
}
