package bind

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

func listenBatch(t *testing.T, g *Batches, network, address string) *BatchConn {
	t.Helper()
	c, err := g.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// receiveNumbers wants packets of these sizes, numbered from 0, from the address.
func receiveNumbers(t *testing.T, c *net.UDPConn, from netip.AddrPort, sizes []int) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 1<<16)
	for i, size := range sizes {
		n, src, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatalf("packet %d: %v", i, err)
		}
		if n != size || number(buf) != uint32(i) || unmapPort(src) != from {
			t.Fatalf("packet %d: got number %d of %d bytes from %s, want %d bytes from %s", i, number(buf), n, src, size, from)
		}
	}
}

// What a program writes while it handles a batch goes out before it waits for the next one, in order, whatever the sizes.
func TestBatchConnForwards(t *testing.T) {
	for _, network := range []string{"udp4", "udp6"} {
		t.Run(network, func(t *testing.T) {
			loopback := "127.0.0.1:0"
			if network == "udp6" {
				loopback = "[::1]:0"
			}
			g := new(Batches)
			in, out := listenBatch(t, g, network, loopback), listenBatch(t, g, network, loopback)
			client, sinks := udpConn(t, loopback), [2]*net.UDPConn{udpConn(t, loopback), udpConn(t, loopback)}
			var running sync.WaitGroup
			running.Go(func() {
				b := make([]byte, 1<<16)
				for i := 0; ; i++ {
					n, from, err := in.ReadFrom(b)
					if err != nil {
						return
					}
					if from.String() != client.LocalAddr().String() {
						t.Errorf("got a packet from %s, want %s", from, client.LocalAddr())
					}
					for _, s := range sinks {
						if _, err := out.WriteTo(b[:n], s.LocalAddr()); err != nil {
							t.Error(err)
						}
					}
				}
			})
			defer running.Wait()
			defer in.Close()
			var sizes []int
			for i := range 100 {
				sizes = append(sizes, 1200)
				if i%7 == 0 {
					sizes[i] = 60 + i
				}
				if _, err := client.WriteTo(transport(sizes[i], uint32(i)), in.LocalAddr()); err != nil {
					t.Fatal(err)
				}
			}
			for _, s := range sinks {
				receiveNumbers(t, s, out.LocalAddr().(*net.UDPAddr).AddrPort(), sizes)
			}
		})
	}
}

// Without a reader, Flush sends what was written.
func TestBatchConnFlush(t *testing.T) {
	g := new(Batches)
	out, sink := listenBatch(t, g, "udp4", "127.0.0.1:0"), udpConn(t, "127.0.0.1:0")
	var sizes []int
	for i := range batchSize + 3 {
		sizes = append(sizes, 100)
		if _, err := out.WriteTo(transport(100, uint32(i)), sink.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	g.Flush()
	receiveNumbers(t, sink, out.LocalAddr().(*net.UDPAddr).AddrPort(), sizes)
	if _, err := out.WriteTo([]byte("x"), &net.TCPAddr{}); err == nil {
		t.Error("an address of TCP is no error")
	}
	out.Close()
	if _, err := out.WriteTo(transport(100, 0), sink.LocalAddr()); err != nil && batchSize > 1 {
		t.Errorf("a write that waits: got %v", err)
	}
	g.Flush() // of a closed socket
	if _, _, err := out.ReadFrom(make([]byte, 10)); err == nil {
		t.Error("reading from a closed socket is no error")
	}
}
