package bind

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// muxQueue is what waits for one agent at one address. Agents read at once; a full queue means a flood.
const muxQueue = 64

// muxConn is one agent's use of the shared sockets at one local address.
type muxConn struct {
	// immutable
	mux   *Mux
	ufrag string
	url   string // the STUN server of a server-reflexive candidate, else empty
	local netip.Addr
	queue *queue

	remotes map[netip.AddrPort]struct{} // addresses that requests went to; guarded by mux.mu
}

var _ net.PacketConn = (*muxConn)(nil)

func newMuxConn(m *Mux, ufrag, url string, l netip.Addr) *muxConn {
	return &muxConn{mux: m, ufrag: ufrag, url: url, local: l, queue: newQueue(muxQueue), remotes: make(map[netip.AddrPort]struct{})}
}

func (c *muxConn) push(b []byte, src netip.AddrPort) {
	p := newPacket(b)
	p.src = src
	if c.queue.push(p) == 0 {
		p.free()
		c.mux.bind.stats.stunDropped.Add(1)
	}
}

// ReadFrom implements [net.PacketConn]. After Close the error is [net.ErrClosed].
func (c *muxConn) ReadFrom(b []byte) (int, net.Addr, error) {
	var ps [1]*packet
	for {
		select {
		case <-c.queue.closed:
			return 0, nil, net.ErrClosed
		case <-c.queue.ready:
		}
		if c.queue.pop(ps[:]) == 0 {
			continue
		}
		p := ps[0]
		n, src := copy(b, p.data), net.UDPAddrFromAddrPort(p.src)
		short := n < len(p.data)
		p.free()
		if short {
			return n, src, io.ErrShortBuffer
		}
		return n, src, nil
	}
}

// WriteTo implements [net.PacketConn]. After Close the error is [io.ErrClosedPipe], the one that pion acts on; while the bind is
// closed it is [net.ErrClosed].
func (c *muxConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	select {
	case <-c.queue.closed:
		return 0, io.ErrClosedPipe
	default:
	}
	u, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, fmt.Errorf("send to %v: not a UDP address", addr)
	}
	dst := unmapPort(u.AddrPort())
	if dst.Addr().Is4() != c.local.Is4() {
		return 0, fmt.Errorf("send from %s to %s: different families", c.local, dst)
	}
	if err := c.mux.write(c, b, dst); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close implements [net.PacketConn]. It unblocks ReadFrom, and is idempotent.
func (c *muxConn) Close() error {
	c.queue.close()
	c.mux.remove(c)
	return nil
}

// LocalAddr implements [net.PacketConn].
func (c *muxConn) LocalAddr() net.Addr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.local, c.mux.bind.Port()))
}

// SetDeadline does nothing: pion sets one right before Close, and takes an error as a reason not to close at all.
func (c *muxConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (c *muxConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing: writing never waits.
func (c *muxConn) SetWriteDeadline(time.Time) error { return nil }
