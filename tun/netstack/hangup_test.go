package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// connected returns both ends of a connection between two nodes.
func connected(t *testing.T, a, b *node, port uint16) (here, there net.Conn) {
	t.Helper()
	l, err := b.ListenTCP(netip.AddrPortFrom(b4, port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if here, err = a.DialContext(testContext(t), "tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if there, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return here, there
}

// TestHangUp checks what the other ends see of connections in each state, while nothing but packets tells them.
func TestHangUp(t *testing.T) {
	a, b := newPair(t)
	data := make([]byte, 256<<10) // more than fits into the first window, less than into the buffers of both ends

	open, openThere := connected(t, a, b, 1)
	closed, closedThere := connected(t, a, b, 2)
	half, halfThere := connected(t, a, b, 3)
	for _, c := range []net.Conn{closed, half} {
		if _, err := c.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(closed.Close(), half.(interface{ CloseWrite() error }).CloseWrite()); err != nil {
		t.Fatal(err)
	}
	a.HangUp(testContext(t))

	// HangUp has waited for the answer to what follows the resets, so they are there.
	if _, err := openThere.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("an open connection: got %v, want a reset", err)
	}
	if n, err := io.Copy(io.Discard, closedThere); n != int64(len(data)) || err != nil {
		t.Errorf("a closed connection: got %d bytes, %v, want %d", n, err, len(data))
	}
	if _, err := halfThere.Write(data); err == nil {
		t.Error("the open half of a connection goes on")
	}
	if _, err := open.Write(data); err == nil {
		t.Error("an open connection goes on")
	}
	if _, err := a.DialContext(testContext(t), "tcp", "10.0.0.2:1"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a new connection: got %v, want %v", err, net.ErrClosed)
	}
	for _, c := range []net.Conn{open, half, openThere, closedThere, halfThere} {
		c.Close()
	}
}

// TestHangUpEnds hangs up on a peer that is gone: ctx bounds it.
func TestHangUpEnds(t *testing.T) {
	a, b := newPair(t)
	c, there := connected(t, a, b, 1)
	defer there.Close()
	b.wg.Close()
	if _, err := c.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a.HangUp(ctx)
	a.HangUp(ctx) // there is nothing left
}

func TestListen(t *testing.T) {
	a, b := newPair(t)
	for _, address := range []string{":80", "10.0.0.2:80", "[fd00::2]:80"} {
		l, err := b.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := b.Listen("tcp", address); err == nil {
			second.Close()
			t.Errorf("two listeners on %s", address)
		}
		p, err := b.ListenPacket("udp", address)
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range []string{"10.0.0.2:80", "[fd00::2]:80"} {
			if address != ":80" && address != to {
				continue
			}
			c, err := a.DialContext(testContext(t), "tcp", to)
			if err != nil {
				t.Fatalf("%s: %v", address, err)
			}
			there, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			there.Close()
			c.Close()
			if c, err = a.DialContext(testContext(t), "udp", to); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if n, _, err := p.ReadFrom(make([]byte, 10)); n != 1 || err != nil {
				t.Errorf("%s: got %d bytes, %v", address, n, err)
			}
			c.Close()
		}
		l.Close()
		p.Close()
	}
	for _, c := range []struct{ network, address, want string }{
		{"udp", ":80", "want tcp"}, {"tcp4", ":80", "want tcp"}, {"tcp", "80", "missing port"}, {"tcp", ":http", "not a number"},
		{"tcp", ":65536", "not a number"}, {"tcp", "example.com:80", "not an address"}, {"tcp", "10.0.0.9:80", "10.0.0.9"},
	} {
		if l, err := b.Listen(c.network, c.address); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: got %v, %v, want %q", c.network, c.address, l, err, c.want)
		}
	}
	if _, err := b.ListenPacket("tcp", ":80"); err == nil || !strings.Contains(err.Error(), "want udp") {
		t.Errorf("got %v", err)
	}
}
