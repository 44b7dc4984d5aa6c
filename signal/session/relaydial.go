package session

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"strconv"

	"golang.org/x/net/proxy"

	"github.com/wice-go/wice-go/proto"
)

// relayDialer connects to TURN servers over TCP and TLS in place of pion, which hands over to its proxy dialer without a word of TLS. So
// what carries the packets can stand above TLS, where it sees ChannelData.
type relayDialer struct{ *agentNet }

var _ proxy.Dialer = relayDialer{}

// Dial implements [proxy.Dialer]. The address is that of a server of the session.
func (d relayDialer) Dial(network, address string) (net.Conn, error) {
	addr, err := d.ResolveTCPAddr(network, address)
	if err != nil {
		return nil, err
	}
	tcp, err := d.DialTCP(network, nil, addr)
	if err != nil {
		return nil, err
	}
	c := net.Conn(tcp)
	if name, ok := d.overTLS(address); ok {
		secure := tls.Client(tcp, &tls.Config{ServerName: name, RootCAs: d.roots})
		ctx, cancel := context.WithTimeout(d.ctx, dialTimeout)
		defer cancel()
		if err := secure.HandshakeContext(ctx); err != nil {
			tcp.Close()
			return nil, err
		}
		c = secure
	}
	s := &relayStream{Conn: c, turnClient: turnClient{relayPacing: relayPacing{pacer: d.pacer}, renewal: renewal{servers: d.servers}}}
	if d.stream != nil {
		s.Conn, s.whole = d.stream(c), true
		d.carries(s.LocalAddr(), s.Conn)
		d.closeUnless(s.Conn, &s.holds) // a server may be alive, in TLS say, and not answer the client
	}
	return s, nil
}

// overTLS returns the name that the certificate of the server must have, if it is one over TLS. pion says no more than the address, so that
// a server that talks TCP and TLS on one port, and is configured for both, gets TLS twice.
func (d relayDialer) overTLS(address string) (string, bool) {
	i := slices.IndexFunc(d.servers, func(s proto.ICEServer) bool {
		return s.Scheme == proto.TURNS && s.Transport == proto.TransportTCP && s.Host+":"+strconv.Itoa(int(s.Port)) == address
	})
	if i < 0 {
		return "", false
	}
	return d.servers[i].Host, true
}

// relayStream is a TURN client's connection over TCP or TLS.
type relayStream struct {
	net.Conn
	whole bool // Conn reads whole messages
	turnClient
}

// Write sends a whole message, as pion's client does. A check that comes too early is dropped.
func (c *relayStream) Write(b []byte) (int, error) {
	m := c.outgoing(b)
	if m == nil {
		return len(b), nil
	}
	if _, err := c.Conn.Write(m); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Read waits for the server's next message, or just more of what it sends if Conn does not know where a message ends.
func (c *relayStream) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.whole {
			return n, err
		}
		if n = c.incoming(b, n, func(m []byte) { _, _ = c.Conn.Write(m) }); n > 0 {
			return n, nil
		}
	}
}
