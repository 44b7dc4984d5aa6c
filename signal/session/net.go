package session

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v2"
	"github.com/pion/transport/v2"

	"github.com/wice-go/wice-go/proto"
)

// dialTimeout bounds how long a TURN server may take to accept a TCP connection, name lookup apart.
const dialTimeout = 8 * time.Second

// agentNet is what one agent makes its sockets with. When the agent closes, it gives up what waits for a server (a name server, a TCP
// handshake, a TURN server that has not allocated anything yet), so that a dead one does not hold up Close. Sockets of relays
// stay until pion closes them: it has to give back its allocation first.
type agentNet struct {
	transport.Net
	ctx      context.Context
	tcpDelay time.Duration // before each TCP handshake: whether a relay over UDP is allocated by then
	ipv6     bool          // a TURN server has an IPv6 address
	udpRelay atomic.Bool   // a relay over UDP was allocated
	pacer    *pacer        // of checks through relays

	servers []proto.ICEServer       // to tell which are asked over TLS
	roots   *x509.CertPool          // of TURN servers over TLS; nil: the system's
	stream  func(net.Conn) net.Conn // wraps connections to TURN servers; nil: they stay as they are

	mu       sync.Mutex // guards the following
	carriers map[string]any
}

// errUDPRelay is why a TURN server is not asked over TCP. A second relay that comes later would only be slower: and its first checks
// might reach the peer's relay before its announcement reaches the peer, and pass there for those of a direct path.
var errUDPRelay = errors.New("not needed: a relay over UDP is there")

// closeUnless closes c with the agent, unless there is something to give back by then.
func (n *agentNet) closeUnless(c io.Closer, needed *atomic.Bool) {
	context.AfterFunc(n.ctx, func() {
		if !needed.Load() {
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

// await runs f, but waits for it no longer than ctx lives. The result of an f that comes later goes to discard. For what can't be
// called off: name servers and TCP handshakes through [transport.Net] end by the system's timeouts, even after Session.Close, and
// questions to STUN servers after a few seconds.
func await[T any](ctx context.Context, f func() (T, error), discard func(T)) (T, error) {
	type result struct {
		v   T
		err error
	}
	ch := make(chan result)
	go func() {
		v, err := f()
		select {
		case ch <- result{v, err}:
		case <-ctx.Done():
			if discard != nil && err == nil {
				discard(v)
			}
		}
	}()
	select {
	case r := <-ch:
		return r.v, r.err
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
}

func discardConn[T io.Closer](c T) { _ = c.Close() }

// ListenPacket opens a TURN client's UDP socket.
func (n *agentNet) ListenPacket(network, address string) (net.PacketConn, error) {
	if n.ipv6 && network == "udp4" {
		network, address = "udp", ":0" // pion asks for IPv4, whatever the server's address is
	}
	c, err := n.Net.ListenPacket(network, address)
	if err != nil {
		return nil, err
	}
	tc := &turnConn{PacketConn: c, turnClient: turnClient{relayPacing: relayPacing{pacer: n.pacer}, renewal: renewal{servers: n.servers}, allocated: &n.udpRelay}}
	n.closeUnless(c, &tc.holds)
	n.carries(c.LocalAddr(), c)
	return tc, nil
}

// carries notes what carries the packets of a relay whose server is reached from the local address.
func (n *agentNet) carries(local net.Addr, carrier any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.carriers == nil {
		n.carriers = make(map[string]any)
	}
	n.carriers[carrierKey(local.Network(), portOf(local))] = carrier
}

// carrier returns what was noted for a local relay candidate, nil for others. Its related address has the port of the socket.
func (n *agentNet) carrier(c ice.Candidate) any {
	var network string
	switch relayProtocol(c) {
	case "udp":
		network = "udp"
	case "tcp", "tls":
		network = "tcp"
	default: // no relay, or one over DTLS, which nothing here sees into
		return nil
	}
	r := c.RelatedAddress()
	if r == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.carriers[carrierKey(network, r.Port)]
}

func carrierKey(network string, port int) string { return network + ":" + strconv.Itoa(port) }

func portOf(a net.Addr) int {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.Port
	case *net.TCPAddr:
		return a.Port
	}
	return 0
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
	if n.udpRelay.Load() {
		return nil, errUDPRelay
	}
	if network == "tcp4" && raddr.IP.To4() == nil {
		network = "tcp6"
	}
	ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
	defer cancel()
	c, err := await(ctx, func() (transport.TCPConn, error) { return n.Net.DialTCP(network, laddr, raddr) }, discardConn[transport.TCPConn])
	if err != nil {
		return nil, err
	}
	tc := &tcpConn{TCPConn: c}
	n.closeUnless(c, &tc.heard)
	return tc, nil
}

// DialUDP opens the socket to a TURN server over DTLS.
func (n *agentNet) DialUDP(network string, laddr, raddr *net.UDPAddr) (transport.UDPConn, error) {
	c, err := n.Net.DialUDP(network, laddr, raddr)
	if err != nil {
		return nil, err
	}
	uc := &udpConn{UDPConn: c}
	n.closeUnless(c, &uc.heard)
	return uc, nil
}

// ResolveUDPAddr looks up a server.
func (n *agentNet) ResolveUDPAddr(network, address string) (*net.UDPAddr, error) {
	if a, ok := literalIPv6(address); ok {
		return net.UDPAddrFromAddrPort(a), nil
	}
	return await(n.ctx, func() (*net.UDPAddr, error) { return n.Net.ResolveUDPAddr(network, address) }, nil)
}

// ResolveTCPAddr looks up a server.
func (n *agentNet) ResolveTCPAddr(network, address string) (*net.TCPAddr, error) {
	if a, ok := literalIPv6(address); ok {
		return net.TCPAddrFromAddrPort(a), nil
	}
	return await(n.ctx, func() (*net.TCPAddr, error) { return n.Net.ResolveTCPAddr(network, address) }, nil)
}

// literalIPv6 reads an IPv6 address and a port as pion writes them: with a colon between, without brackets. It asks for such an address
// as one of IPv4 too, since its TURN client knows no other.
func literalIPv6(s string) (netip.AddrPort, bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return netip.AddrPort{}, false
	}
	a, err := netip.ParseAddr(strings.Trim(s[:i], "[]"))
	port, errPort := strconv.ParseUint(s[i+1:], 10, 16)
	return netip.AddrPortFrom(a, uint16(port)), err == nil && errPort == nil && a.Is6() && !a.Is4In6()
}
