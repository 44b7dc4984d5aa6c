package bind

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
)

// benchSize is a full packet of a tunnel with an MTU of 1420.
const benchSize = 1452

// binds are the two that are compared.
var binds = []struct {
	name string
	make func() conn.Bind
}{
	{"wice", func() conn.Bind { return New(Options{}) }},
	{"stock", conn.NewDefaultBind},
}

// sink is a UDP socket that nobody reads: what it can't hold the kernel drops.
func sink(b *testing.B) netip.AddrPort {
	c := udpConn(b, "127.0.0.1:0")
	c.SetReadBuffer(1 << 12)
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func BenchmarkSendDirect(b *testing.B) {
	for _, batch := range []int{1, 8, 64, 128} {
		for _, kind := range binds {
			b.Run(fmt.Sprintf("%s/batch=%d", kind.name, batch), func(b *testing.B) {
				bind := kind.make()
				if _, _, err := bind.Open(0); err != nil {
					b.Fatal(err)
				}
				defer bind.Close()
				ep, err := bind.ParseEndpoint(sink(b).String())
				if err != nil {
					b.Fatal(err)
				}
				bufs, packets := make([][]byte, batch), make([][]byte, batch)
				for i := range packets {
					// As in WireGuard there is room behind the packet, which the stock bind gathers in.
					packets[i] = transport(1<<16-1, uint32(i))[:benchSize]
				}
				b.SetBytes(benchSize)
				b.ReportAllocs()
				for i := 0; i < b.N; i += batch {
					copy(bufs, packets)
					if err := bind.Send(bufs, ep); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkReceiveBatch(b *testing.B) {
	for _, coalesced := range []bool{true, false} {
		for _, batch := range []int{1, 8, 64, 128} {
			for _, kind := range binds {
				b.Run(fmt.Sprintf("%s/gso=%t/batch=%d", kind.name, coalesced, batch), func(b *testing.B) {
					benchReceive(b, kind.make(), coalesced, batch)
				})
			}
		}
	}
}

// benchReceive sends a burst, stops the clock while doing so, and measures how long it takes to receive it.
func benchReceive(b *testing.B, bind conn.Bind, coalesced bool, batch int) {
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
	if s := src.socks.Load().v4; !coalesced {
		disableGSO(s)
	}
	ep, _ := src.ParseEndpoint(fmt.Sprintf("127.0.0.1:%d", port))
	out := make([][]byte, batch)
	for i := range out {
		out[i] = transport(benchSize, uint32(i))
	}
	bufs, sizes, eps := newBatch(bind.BatchSize())
	b.SetBytes(benchSize)
	b.ReportAllocs()
	b.ResetTimer()
	calls := 0
	for done := 0; done < b.N; {
		b.StopTimer()
		if err := src.Send(out, ep); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		for n := 0; n < batch; calls++ {
			k, err := fns[0](bufs, sizes, eps)
			if err != nil {
				b.Fatal(err)
			}
			for _, s := range sizes[:k] {
				if s > 0 {
					n++
				}
			}
		}
		done += batch
	}
	b.ReportMetric(float64(calls)/float64(b.N), "calls/op")
}
