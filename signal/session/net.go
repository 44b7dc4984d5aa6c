package session

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/pion/transport/v2"
)

// dialTimeout bounds how long a TURN server may take to accept a TCP connection, name lookup apart.
const dialTimeout = 8 * time.Second

// agentNet is what one agent makes its sockets with. When the agent closes, it gives up what waits for a server that has not said a
// word (a name server, a TCP handshake, a TURN server), so that a dead one does not hold up Close. Sockets to live
// servers stay until pion closes them: it has to give back its allocation first.
type agentNet struct {
	transport.Net
	ctx      context.Context
	tcpDelay time.Duration // before each TCP handshake
}

// closeSilent closes c with the agent if nothing was heard by then.
func (n *agentNet) closeSilent(c io.Closer, heard *atomic.Bool) {
	context.AfterFunc(n.ctx, func() {
		if !heard.Load() {
			_ = c.Close()
		}
	})
}

// tcpConn notes that the server is alive.
type tcpConn struct {
	transport.TCPConn
	heard atomic.Bool
}

func (c *tcpConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.heard.Store(c.heard.Load() || n > 0)
	return n, err
}

// udpConn notes that the server is alive.
type udpConn struct {
	transport.UDPConn
	heard atomic.Bool
}

func (c *udpConn) Read(b []byte) (int, error) {
	n, err := c.UDPConn.Read(b)
	c.heard.Store(c.heard.Load() || n > 0)
	return n, err
}

// await runs f, but waits for it no longer than ctx lives. The result of an f that comes later goes to discard.
func await[T any](ctx context.Context, spawn func(func()), f func() (T, error), discard func(T)) (T, error) {
	type result struct {
		v   T
		err error
	}
	ch := make(chan result)
	spawn(func() {
		v, err := f()
		select {
		case ch <- result{v, err}:
		case <-ctx.Done():
			if discard != nil && err == nil {
				discard(v)
			}
		}
	})
	select {
	case r := <-ch:
		return r.v, r.err
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
}

// spawn runs f beside everything else, even beyond Session.Close: name servers and TCP handshakes can't be called off through
// [transport.Net], and end by the system's timeouts.
func spawn(f func()) { go f() }

func discardConn[T io.Closer](c T) { _ = c.Close() }

// ListenPacket opens a TURN client's UDP socket.
func (n *agentNet) ListenPacket(network, address string) (net.PacketConn, error) {
	c, err := n.Net.ListenPacket(network, address)
	if err != nil {
		return nil, err
	}
	tc := &turnConn{PacketConn: c}
	n.closeSilent(c, &tc.heard)
	return tc, nil
}

// DialTCP connects to a TURN server.
func (n *agentNet) DialTCP(network string, laddr, raddr *net.TCPAddr) (transport.TCPConn, error) {
	timer := time.NewTimer(n.tcpDelay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-n.ctx.Done():
		return nil, context.Cause(n.ctx)
	}
	ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
	defer cancel()
	c, err := await(ctx, spawn, func() (transport.TCPConn, error) { return n.Net.DialTCP(network, laddr, raddr) }, discardConn[transport.TCPConn])
	if err != nil {
		return nil, err
	}
	tc := &tcpConn{TCPConn: c}
	n.closeSilent(c, &tc.heard)
	return tc, nil
}

// DialUDP opens the socket to a TURN server over DTLS.
func (n *agentNet) DialUDP(network string, laddr, raddr *net.UDPAddr) (transport.UDPConn, error) {
	c, err := n.Net.DialUDP(network, laddr, raddr)
	if err != nil {
		return nil, err
	}
	uc := &udpConn{UDPConn: c}
	n.closeSilent(c, &uc.heard)
	return uc, nil
}

// ResolveUDPAddr looks up a server.
func (n *agentNet) ResolveUDPAddr(network, address string) (*net.UDPAddr, error) {
	return await(n.ctx, spawn, func() (*net.UDPAddr, error) { return n.Net.ResolveUDPAddr(network, address) }, nil)
}

// ResolveTCPAddr looks up a server.
func (n *agentNet) ResolveTCPAddr(network, address string) (*net.TCPAddr, error) {
	return await(n.ctx, spawn, func() (*net.TCPAddr, error) { return n.Net.ResolveTCPAddr(network, address) }, nil)
}
