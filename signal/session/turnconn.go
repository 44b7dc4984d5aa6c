package session

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/pion/stun"
)

// turnConn is a TURN client's UDP socket that receives from the server alone, and only what a server sends. Without that anybody who
// finds the port could end the relay: pion's client stops at the first message that it does not expect.
type turnConn struct {
	net.PacketConn
	server atomic.Pointer[netip.AddrPort] // where the client sends to
	holds  atomic.Bool                    // the server has allocated a relay on this socket, which it wants back

	allocated *atomic.Bool // set then too
	turnClient
}

// WriteTo sends to the TURN server; a client has one. A check that comes too early is dropped.
func (c *turnConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	if !c.admits(b) {
		return len(b), nil
	}
	if udp, ok := addr.(*net.UDPAddr); ok {
		ap := unmapped(udp)
		if s := c.server.Load(); s == nil || *s != ap {
			c.server.Store(&ap)
		}
	}
	c.renewal.sent(b)
	return c.PacketConn.WriteTo(b, addr)
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
		if ok && s != nil && *s == unmapped(udp) && fromTURNServer(b[:n]) {
			if c.renewal.received(b[:n], func(m []byte) { _, _ = c.PacketConn.WriteTo(m, addr) }) {
				continue
			}
			if b[0] == 1 && b[1] == 3 { // Allocate success response, RFC 8656, section 7.3
				c.holds.Store(true)
				if c.allocated != nil {
					c.allocated.Store(true)
				}
			}
			return n, addr, nil
		}
	}
}

func unmapped(a *net.UDPAddr) netip.AddrPort {
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// fromTURNServer reports whether b is ChannelData (RFC 8656, section 12.4), a response, or a complete Data indication.
func fromTURNServer(b []byte) bool {
	if len(b) < 4 {
		return false
	}
	if b[0]&0xc0 == 0x40 && !stun.IsMessage(b) { // pion takes the magic cookie, four bytes into b, for proof enough of STUN
		return int(binary.BigEndian.Uint16(b[2:])) <= len(b)-4
	}
	m := stun.Message{Raw: b}
	if b[0]&0xc0 != 0 || !stun.IsMessage(b) || m.Decode() != nil {
		return false
	}
	switch m.Type.Class {
	case stun.ClassSuccessResponse, stun.ClassErrorResponse:
		return true
	case stun.ClassIndication:
		var peer stun.XORMappedAddress
		return m.Type.Method == stun.MethodData && m.Contains(stun.AttrData) && peer.GetFromAs(&m, stun.AttrXORPeerAddress) == nil
	}
	return false
}
