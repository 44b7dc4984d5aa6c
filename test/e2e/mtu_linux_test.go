package e2e

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/wice-go/wice-go/test/natlab"
)

// transferSize is what has to come through a narrow path, in bytes.
const transferSize = 10 << 20

// dualPair makes a world of two nodes that are each other's peers without NATs, over one family outside and both inside the tunnel.
// Nothing is up yet.
func dualPair(t *testing.T, outside natlab.Family) (w *world, na, nb *node) {
	t.Helper()
	w = newWorld(t, natlab.Config{Family: natlab.DualStack, A: natlab.Site{NoIPv4: outside == natlab.IPv6}, B: natlab.Site{NoIPv6: outside == natlab.IPv4}})
	w.rendezvous()
	na, nb = w.node(w.lab.A[0]), w.node(w.lab.B[0])
	join(na, nb)
	for _, n := range w.nodes {
		n.lines = append(n.lines, fmt.Sprintf("Address = %s/64", n.addr6()))
	}
	na.peers[0].allowed = append(na.peers[0].allowed, nb.addr6().String()+"/128")
	nb.peers[0].allowed = append(nb.peers[0].allowed, na.addr6().String()+"/128")
	return w, na, nb
}

// addr6 is the node's IPv6 address inside the tunnel.
func (n *node) addr6() netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd99::%d", n.addr.As4()[3]))
}

// clamped waits until the node knows the MTU of the path to the other, which is less than its interface wants.
func (n *node) clamped(other *node, mtu int) *pathStatus {
	n.w.t.Helper()
	p := n.peerUntil(other, fmt.Sprintf("over a path with an MTU of %d", mtu), func(p peerStatus) bool { return p.Path != nil && p.Path.PathMTU == mtu })
	return p.Path
}

// transfer sends transferSize bytes over one TCP connection to an address of the other node, and ends the test unless they arrive.
// Midway is called when half of them are sent; the rest follows at some 10 Mbit/s. Nil: all are sent at once.
func (n *node) transfer(other *node, addr netip.Addr, midway func()) {
	t := n.w.t
	t.Helper()
	var l net.Listener
	var c net.Conn
	err := other.host.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := n.host.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", l.Addr().String(), patience)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	deadline := time.Now().Add(2 * patience)
	received := make(chan int64, 1)
	go func() {
		in, err := l.Accept()
		if err != nil {
			received <- 0
			return
		}
		defer in.Close()
		in.SetDeadline(deadline)
		got, _ := io.Copy(io.Discard, in)
		received <- got
	}()
	c.SetDeadline(deadline)
	const pieces = 128
	start, piece := time.Now(), make([]byte, transferSize/pieces)
	for i := range pieces {
		if i == pieces/2 && midway != nil {
			midway()
		}
		if i >= pieces/2 && midway != nil {
			<-time.After(50 * ms)
		}
		if _, err := c.Write(piece); err != nil {
			t.Errorf("%s sends to %s: %v", n.name, addr, err)
			break
		}
	}
	c.Close()
	got := <-received
	t.Logf("%s to %s: %d bytes in %v", n.name, addr, got, time.Since(start).Round(ms))
	if got != transferSize {
		t.Fatalf("%s to %s: %d bytes arrived, want %d", n.name, addr, got, transferSize)
	}
}

// transfers sends each way, over IPv4 and IPv6 inside.
func transfers(na, nb *node) {
	na.w.t.Helper()
	na.transfer(nb, nb.addr, nil)
	nb.transfer(na, na.addr, nil)
	na.transfer(nb, nb.addr6(), nil)
	nb.transfer(na, na.addr6(), nil)
}

// families are those outside the tunnel, with the length of the headers that WireGuard's data has over each.
var families = []struct {
	name     string
	family   natlab.Family
	overhead int
}{
	{"IPv4", natlab.IPv4, 20 + 8 + 32},
	{"IPv6", natlab.IPv6, 40 + 8 + 32},
}

// A path whose MTU is 1280 and that says so to nobody carries TCP: from the beginning, and after it was found to be narrow.
func TestBlackHole(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			w, na, nb := dualPair(t, f.family)
			w.lab.SiteA.SetMTU(1280, true)
			na.up()
			nb.up("--wait")
			transfers(na, nb)
			na.clamped(nb, 1280)
			p := nb.clamped(na, 1280)
			if most := 1280 - f.overhead; p.MTU > most || p.MTU <= most-16 {
				t.Errorf("got packets of %d bytes, want %d less at most 15", p.MTU, most)
			}
			if text := nb.must("status", iface).stdout; !strings.Contains(text, fmt.Sprintf("path MTU 1280: packets over %d B clamped", p.MTU)) {
				t.Errorf("status does not say that the path is narrow:\n%s", text)
			}
			transfers(na, nb)
		})
	}
}

// A path that shrinks under a transfer does not end it, whether or not anybody hears of it, and is found to be narrow.
func TestPathShrinks(t *testing.T) {
	for _, f := range families {
		for _, blocked := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, ICMP blocked %v", f.name, blocked), func(t *testing.T) {
				w, na, nb := dualPair(t, f.family)
				na.up()
				nb.up("--wait")
				shrink := func() { w.lab.SiteA.SetMTU(1280, blocked) }
				grow := func() { w.lab.SiteA.SetMTU(1500, false) }
				na.transfer(nb, nb.addr, shrink)
				na.clamped(nb, 1280)
				grow()
				nb.transfer(na, na.addr6(), shrink)
				nb.clamped(na, 1280)
				transfers(na, nb)
			})
		}
	}
}
