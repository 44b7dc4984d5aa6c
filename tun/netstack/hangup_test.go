package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// connected returns both ends of a connection from a to b.
func connected(t *testing.T, a, b *Stack) (here, there net.Conn) {
	t.Helper()
	l, err := b.ListenTCP(netip.AddrPortFrom(b4, 1))
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
	t.Cleanup(func() { here.Close(); there.Close() })
	return here, there
}

// TestHangUp checks what the other ends see of connections in each state, while nothing but packets tells them.
func TestHangUp(t *testing.T) {
	a, b := newPair(t)
	data := make([]byte, 256<<10) // more than fits into the first window, less than into the buffers of both ends

	open, openThere := connected(t, a.Stack, b.Stack)
	closed, closedThere := connected(t, a.Stack, b.Stack)
	half, halfThere := connected(t, a.Stack, b.Stack)
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
}

// TestHangUpUnderTraffic hangs up while much is queued: HangUp waits for the reset, though it comes after all that.
func TestHangUpUnderTraffic(t *testing.T) {
	stalled, moving := make(chan struct{}), make(chan struct{})
	var reset atomic.Bool
	a, b := newLossyWire(t, func(toB bool, packet []byte) bool {
		if toB && len(packet) == 1420 {
			select {
			case <-stalled:
				<-moving
			default:
			}
		}
		if toB && carriesReset(packet) {
			reset.Store(true)
		}
		return false
	})
	c, there := connected(t, a, b)
	go io.Copy(io.Discard, there)
	if _, err := c.Write(make([]byte, 8<<20)); err != nil { // so that the windows grow
		t.Fatal(err)
	}
	close(stalled)
	go c.Write(make([]byte, 8<<20))
	await(testContext(t), func() bool { return a.link.queued() > 2*takeBytes })
	close(moving)
	a.HangUp(testContext(t))
	if !reset.Load() {
		t.Error("no reset before HangUp returned")
	}
}

// TestHangUpLosesResets hangs up on a way that loses the first reset: there is another one.
func TestHangUpLosesResets(t *testing.T) {
	var resets atomic.Int32
	a, b := newLossyWire(t, func(toB bool, packet []byte) bool { return toB && carriesReset(packet) && resets.Add(1) == 1 })
	_, there := connected(t, a, b)
	there.SetDeadline(time.Now().Add(30 * time.Second))
	a.HangUp(testContext(t))
	if _, err := there.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("got %v, want a reset", err)
	}
}

// carriesReset reports whether a packet of IPv4 is a reset of TCP.
func carriesReset(packet []byte) bool {
	return packet[9] == uint8(header.TCPProtocolNumber) && header.TCP(header.IPv4(packet).Payload()).Flags().Contains(header.TCPFlagRst)
}

// TestHangUpEnds hangs up on a peer that is gone: ctx bounds it.
func TestHangUpEnds(t *testing.T) {
	a, b := newPair(t)
	c, _ := connected(t, a.Stack, b.Stack)
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
