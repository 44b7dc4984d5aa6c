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
	"github.com/wice-go/wice-go/test/program"
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
func (n *node) clamped(other *node, mtu int) *program.Path {
	n.w.t.Helper()
	p := n.peerUntil(other, fmt.Sprintf("over a path with an MTU of %d", mtu), func(p peerStatus) bool { return p.Path != nil && p.Path.PathMTU == mtu })
	return p.Path
}

// sink accepts one TCP connection, and counts what it brings.
type sink struct {
	l   net.Listener
	got chan int64
}

// sink listens at an address of the node, until the test ends.
func (n *node) sink(addr netip.AddrPort) *sink {
	n.w.t.Helper()
	s := &sink{got: make(chan int64, 1)}
	if err := n.host.Do(func() (err error) {
		s.l, err = net.Listen("tcp", addr.String())
		return err
	}); err != nil {
		n.w.t.Fatal(err)
	}
	n.w.t.Cleanup(func() { s.l.Close() })
	go func() {
		c, err := s.l.Accept()
		if err != nil {
			s.got <- 0
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * patience))
		got, _ := io.Copy(io.Discard, c)
		s.got <- got
	}()
	return s
}

// send sends transferSize bytes over one TCP connection to an address that leads to the sink, and ends the test unless they arrive.
// Midway is called when half of them are sent; the rest follows at some 10 Mbit/s. Nil: all are sent at once.
func (n *node) send(to string, s *sink, midway func()) {
	t := n.w.t
	t.Helper()
	var c net.Conn
	if err := n.host.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", to, patience)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * patience))
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
			t.Errorf("%s sends to %s: %v", n.name, to, err)
			break
		}
	}
	c.Close()
	got := <-s.got
	t.Logf("%s to %s: %d bytes in %v", n.name, to, got, time.Since(start).Round(ms))
	if got != transferSize {
		t.Fatalf("%s to %s: %d bytes arrived, want %d", n.name, to, got, transferSize)
	}
}

// transfer sends to an address of the other node, as send does.
func (n *node) transfer(other *node, addr netip.Addr, midway func()) {
	n.w.t.Helper()
	s := other.sink(netip.AddrPortFrom(addr, 0))
	n.send(s.l.Addr().String(), s, midway)
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

// So does one through relays, wherever it is narrow.
func TestBlackHoleRelayed(t *testing.T) {
	const overhead = 20 + 8 + 4 + 32 // ChannelData too
	w, na, nb := dualPair(t, natlab.IPv4)
	for _, n := range w.nodes {
		n.lines = append(n.lines, "#!wice CandidateTypes = relay")
	}
	na.up()
	nb.up("--wait")
	na.transfer(nb, nb.addr, func() { w.lab.SiteA.SetMTU(1280, true) })
	nb.transfer(na, na.addr, func() {}) // for some seconds: who sends nothing large looks for nothing
	transfers(na, nb)
	for _, p := range []*program.Path{na.clamped(nb, 1280), nb.clamped(na, 1280)} {
		if most := 1280 - overhead; p.Kind != "relay" || p.MTU > most || p.MTU <= most-16 {
			t.Errorf("got a path by %s for packets of %d bytes, want a relay, and %d less at most 15", p.Kind, p.MTU, most)
		}
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

// The userspace stack is told of a narrow path like the kernel's.
func TestBlackHoleNetstack(t *testing.T) {
	const forward, port = "127.0.0.1:8080", 7000
	w, na, nb := dualPair(t, natlab.IPv6)
	na.lines = append(na.lines, "#!wice Tun = netstack", fmt.Sprintf("#!wice Forward = tcp %s -> %s:%d", forward, nb.addr, port))
	na.up()
	nb.up("--wait")
	send := func(midway func()) {
		s := nb.sink(netip.AddrPortFrom(nb.addr, port))
		na.send(forward, s, midway)
		s.l.Close()
	}
	send(func() { w.lab.SiteA.SetMTU(1280, true) })
	na.clamped(nb, 1280)
	send(nil)
}

// A peer without ICE answers no probes. What a router says about a narrow path the kernel heeds by itself: it fragments our datagrams.
func TestNarrowPathToPlainPeer(t *testing.T) {
	w := newWorld(t, natlab.Config{})
	na, plain := w.node(w.lab.A[0], "ListenPort = 51820"), w.node(w.lab.B[0])
	join(na, plain)
	na.up()
	plainPeer(plain, na, netip.AddrPortFrom(na.host.Addr4(), 51820))
	plain.firstPing(na.addr)
	na.transfer(plain, plain.addr, func() { w.lab.SiteA.SetMTU(1280, false) })
	na.transfer(plain, plain.addr, nil)
	if p := peerOf(t, na.status(), plain.key.Public()); p.Path == nil || p.Path.MTU != 0 {
		t.Errorf("got %v, want a path of which the MTU is not known", p)
	}
}

// Where nobody says so, an MTU in the file of one side is enough for TCP both ways: its MSS tells the other.
func TestBlackHoleToPlainPeer(t *testing.T) {
	w := newWorld(t, natlab.Config{})
	w.lab.SiteA.SetMTU(1280, true)
	na, plain := w.node(w.lab.A[0], "ListenPort = 51820", "MTU = 1216"), w.node(w.lab.B[0])
	join(na, plain)
	na.up()
	plainPeer(plain, na, netip.AddrPortFrom(na.host.Addr4(), 51820))
	plain.firstPing(na.addr)
	na.transfer(plain, plain.addr, nil)
	plain.transfer(na, na.addr, nil)
}
