package rendezvous

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
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
	c, err := net.ListenUDP("udp"+family(g.e.listen), net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, nil, err
	}
	c.SetReadBuffer(socketBuffer)
	announced := netip.AddrPortFrom(g.e.announce, addrPort(c.LocalAddr()).Port())
	r := &relayConn{UDPConn: c, t: g.t, announced: announced}
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
	*net.UDPConn
	t         *turnServer
	announced netip.AddrPort
	limiter   atomic.Pointer[rate.Limiter] // set right after the allocation is made
}

// WriteTo sends to a peer, or drops the packet.
func (c *relayConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if !c.t.sendable(addrPort(to)) || !c.within(len(b)) {
		return len(b), nil
	}
	return c.UDPConn.WriteTo(b, to)
}

// ReadFrom returns the next packet within the limit.
func (c *relayConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.UDPConn.ReadFrom(b)
		if err != nil || c.within(n) {
			return n, from, err
		}
	}
}

func (c *relayConn) within(n int) bool {
	l := c.limiter.Load()
	return l == nil || l.AllowN(time.Now(), n)
}

// Close implements [net.PacketConn].
func (c *relayConn) Close() error {
	c.t.mu.Lock()
	delete(c.t.relays, c.announced)
	c.t.mu.Unlock()
	return c.UDPConn.Close()
}
