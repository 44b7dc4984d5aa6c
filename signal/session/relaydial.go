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
		secure := tls.Client(tcp, &tls.Config{ServerName: name})
		ctx, cancel := context.WithTimeout(d.ctx, dialTimeout)
		defer cancel()
		if err := secure.HandshakeContext(ctx); err != nil {
			tcp.Close()
			return nil, err
		}
		c = secure
	}
	if d.stream != nil {
		c = d.stream(c)
		d.carries(c.LocalAddr(), c)
	}
	return &relayStream{c, turnClient{relayPacing: relayPacing{pacer: d.pacer}, renewal: renewal{servers: d.servers}}}, nil
}

// overTLS returns the name that the certificate of the server must have, if it is one over TLS.
func (d relayDialer) overTLS(address string) (string, bool) {
	i := slices.IndexFunc(d.servers, func(s proto.ICEServer) bool {
		return s.Scheme == proto.TURNS && s.Transport == proto.TransportTCP && s.Host+":"+strconv.Itoa(int(s.Port)) == address
	})
	if i < 0 {
		return "", false
	}
	return d.servers[i].Host, true
}

// turnClient is what is done about the messages that a TURN client exchanges with its server, however it reaches it.
type turnClient struct {
	relayPacing
	renewal renewal
}

// relayStream is a TURN client's connection over TCP or TLS.
type relayStream struct {
	net.Conn
	turnClient
}

// Write sends a whole message, as pion's client does. A check that comes too early is dropped.
func (c *relayStream) Write(b []byte) (int, error) {
	if !c.admits(b) {
		return len(b), nil
	}
	c.renewal.sent(b)
	return c.Conn.Write(b)
}

// Read waits for more of what the server sends: whole messages, if the connection is one of [Options.RelayStream].
func (c *relayStream) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.renewal.received(b[:n], func(m []byte) { _, _ = c.Conn.Write(m) }) {
			return n, err
		}
	}
}
