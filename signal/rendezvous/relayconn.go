package rendezvous

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/wice-go/wice-go/bind"
)

// relayGenerator makes the relay sockets of one endpoint.
type relayGenerator struct {
	t *turnServer
	e endpoint
}

// Validate implements [turn.RelayAddressGenerator].
func (g *relayGenerator) Validate() error { return nil }

// AllocatePacketConn implements [turn.RelayAddressGenerator]. The network that it is given always says IPv4; the endpoint's own version
// counts.
func (g *relayGenerator) AllocatePacketConn(_ string, port int) (net.PacketConn, net.Addr, error) {
	at := netip.AddrPortFrom(g.e.listen, uint16(port))
	c, err := g.t.batches.Listen("udp"+family(g.e.listen), at.String())
	if err != nil {
		return nil, nil, err
	}
	announced := netip.AddrPortFrom(g.e.announce, addrPort(c.LocalAddr()).Port())
	r := &relayConn{BatchConn: c, t: g.t, announced: announced}
	g.t.mu.Lock()
	g.t.relays[announced] = r
	g.t.mu.Unlock()
	return r, net.UDPAddrFromAddrPort(announced), nil
}

// AllocateConn implements [turn.RelayAddressGenerator].
func (g *relayGenerator) AllocateConn(string, int) (net.Conn, net.Addr, error) {
	return nil, nil, errNoRelayTCP
}

// relayConn is a relay socket that keeps to the policy and to its key's share of the bandwidth. Packets beyond are dropped, as on
// any link that is full.
type relayConn struct {
	*bind.BatchConn
	t         *turnServer
	announced netip.AddrPort
	limiter   atomic.Pointer[rate.Limiter] // set right after the allocation is made
}

// WriteTo sends to a peer, or drops the packet.
func (c *relayConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if !c.t.sendable(addrPort(to)) || !c.within(len(b)) {
		return len(b), nil
	}
	return c.BatchConn.WriteTo(b, to)
}

// ReadFrom returns the next packet within the limit.
func (c *relayConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := readSteadily(c.BatchConn, b)
		if err != nil || c.within(n) {
			return n, from, err
		}
	}
}

func (c *relayConn) within(n int) bool {
	l := c.limiter.Load()
	return l == nil || l.AllowN(time.Now(), n)
}

// Close implements [net.PacketConn]. Closed once more, it leaves alone the one that has its port by then.
func (c *relayConn) Close() error {
	c.t.mu.Lock()
	if c.t.relays[c.announced] == c {
		delete(c.t.relays, c.announced)
	}
	c.t.mu.Unlock()
	return c.BatchConn.Close()
}

// maxReadErrors is how many errors in a row end a socket.
const maxReadErrors = 64

// readSteadily reads past errors that are about a packet which was sent before, such as "port unreachable" on Windows: pion's loops end
// at the first one.
func readSteadily(c net.PacketConn, b []byte) (n int, from net.Addr, err error) {
	for range maxReadErrors {
		n, from, err = c.ReadFrom(b)
		if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	return n, from, err
}

// steadyConn is a listening socket.
type steadyConn struct{ net.PacketConn }

// ReadFrom implements [net.PacketConn].
func (c steadyConn) ReadFrom(b []byte) (int, net.Addr, error) { return readSteadily(c.PacketConn, b) }
