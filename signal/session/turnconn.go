package session

import (
	"net"
	"net/netip"
	"sync/atomic"
)

// turnConn is a TURN client's UDP socket that receives from the server alone, and only what a server sends. Without that anybody who
// finds the port could end the relay: pion's client stops at the first message that it does not expect.
type turnConn struct {
	net.PacketConn
	server atomic.Pointer[netip.AddrPort] // where the client sends to

	turnClient
}

// WriteTo sends to the TURN server; a client has one. A check that comes too early is dropped.
func (c *turnConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	m := c.outgoing(b)
	if m == nil {
		return len(b), nil
	}
	if udp, ok := addr.(*net.UDPAddr); ok {
		ap := unmapped(udp)
		if s := c.server.Load(); s == nil || *s != ap {
			c.server.Store(&ap)
		}
	}
	if _, err := c.PacketConn.WriteTo(m, addr); err != nil {
		return 0, err
	}
	return len(b), nil
}

// ReadFrom waits for the server's next message.
func (c *turnConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, addr, err := c.PacketConn.ReadFrom(b)
		if err != nil {
			return n, addr, err
		}
		udp, ok := addr.(*net.UDPAddr)
		s := c.server.Load()
		if !ok || s == nil || *s != unmapped(udp) {
			continue
		}
		if n = c.incoming(b, n, func(m []byte) { _, _ = c.PacketConn.WriteTo(m, addr) }); n > 0 {
			return n, addr, nil
		}
	}
}

func unmapped(a *net.UDPAddr) netip.AddrPort {
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
