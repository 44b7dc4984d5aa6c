package session

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/pion/transport/v2"
)

// dialTimeout bounds how long a TURN server may take to accept a TCP connection, name lookup apart.
const dialTimeout = 8 * time.Second

// agentNet is what one agent makes its sockets with. It closes them all with the agent, and gives up waiting (for a
// name server, for a TCP handshake) when the agent closes, so that a dead TURN server does not hold up Close.
type agentNet struct {
	transport.Net
	ctx context.Context
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

// closeWith closes c with the agent. pion closes it too, as a rule; closing twice does no harm to a socket.
func (n *agentNet) closeWith(c io.Closer) { context.AfterFunc(n.ctx, func() { _ = c.Close() }) }

// ListenPacket opens a TURN client's UDP socket.
func (n *agentNet) ListenPacket(network, address string) (net.PacketConn, error) {
	c, err := n.Net.ListenPacket(network, address)
	if err != nil {
		return nil, err
	}
	n.closeWith(c)
	return &turnConn{PacketConn: c}, nil
}

// DialTCP connects to a TURN server.
func (n *agentNet) DialTCP(network string, laddr, raddr *net.TCPAddr) (transport.TCPConn, error) {
	ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
	defer cancel()
	c, err := await(ctx, spawn, func() (transport.TCPConn, error) { return n.Net.DialTCP(network, laddr, raddr) }, discardConn[transport.TCPConn])
	if err == nil {
		n.closeWith(c)
	}
	return c, err
}

// DialUDP opens the socket to a TURN server over DTLS.
func (n *agentNet) DialUDP(network string, laddr, raddr *net.UDPAddr) (transport.UDPConn, error) {
	c, err := n.Net.DialUDP(network, laddr, raddr)
	if err == nil {
		n.closeWith(c)
	}
	return c, err
}

// ResolveUDPAddr looks up a server.
func (n *agentNet) ResolveUDPAddr(network, address string) (*net.UDPAddr, error) {
	return await(n.ctx, spawn, func() (*net.UDPAddr, error) { return n.Net.ResolveUDPAddr(network, address) }, nil)
}

// ResolveTCPAddr looks up a server.
func (n *agentNet) ResolveTCPAddr(network, address string) (*net.TCPAddr, error) {
	return await(n.ctx, spawn, func() (*net.TCPAddr, error) { return n.Net.ResolveTCPAddr(network, address) }, nil)
}
