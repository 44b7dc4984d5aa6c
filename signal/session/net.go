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

func discardConn[T io.Closer](c T) { _ = c.Close() }

// closeWith closes c with the agent. pion closes it too, as a rule; closing twice does no harm to a socket.
func (n *agentNet) closeWith(c io.Closer) { context.AfterFunc(n.ctx, func() { _ = c.Close() }) }

// ListenPacket opens a TURN client's UDP socket.
func (n *agentNet) ListenPacket(network, address string) (net.PacketConn, error) {
	c, err := n.Net.ListenPacket(network, address)
	if err == nil {
		n.closeWith(c)
	}
	return c, err
}

// DialTCP connects to a TURN server.
func (n *agentNet) DialTCP(network string, laddr, raddr *net.TCPAddr) (transport.TCPConn, error) {
	ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
	defer cancel()
	c, err := await(ctx, func() (transport.TCPConn, error) { return n.Net.DialTCP(network, laddr, raddr) }, discardConn[transport.TCPConn])
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
	return await(n.ctx, func() (*net.UDPAddr, error) { return n.Net.ResolveUDPAddr(network, address) }, nil)
}

// ResolveTCPAddr looks up a server.
func (n *agentNet) ResolveTCPAddr(network, address string) (*net.TCPAddr, error) {
	return await(n.ctx, func() (*net.TCPAddr, error) { return n.Net.ResolveTCPAddr(network, address) }, nil)
}
