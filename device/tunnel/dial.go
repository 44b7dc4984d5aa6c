package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// dialTimeout is what a dial has whose context has no deadline, as with http.DefaultTransport.
const dialTimeout = 30 * time.Second

var errNoStack = errors.New("the packets of this tunnel go to a device outside: dial and listen there")

// DialContext connects as [net.Dialer] does, inside the tunnel: network is tcp, tcp4, tcp6, udp, udp4 or udp6, and the host an address, the
// name of a peer, or else one that the DNS servers of the tunnel know. A peer that is not connected is waited for, for at most 10 s, and a
// host behind one that is for 30 s, unless ctx ends before. The error says which peer was in the way and why: see [PeerError].
func (t *Tunnel) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if err := t.use(); err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("%s: %w", address, err)}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	c, err := t.stack.DialPatiently(ctx, network, address, t.patience)
	if err != nil && t.ctx.Err() != nil {
		err = &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("%s: %w", address, net.ErrClosed)}
	}
	return c, err
}

// Dial is [Tunnel.DialContext] without a context.
func (t *Tunnel) Dial(network, address string) (net.Conn, error) {
	return t.DialContext(context.Background(), network, address)
}

// LookupHost returns the addresses inside the tunnel of a peer of that name, or else of a host that the DNS servers of the tunnel know.
func (t *Tunnel) LookupHost(ctx context.Context, host string) ([]netip.Addr, error) {
	if err := t.use(); err != nil {
		return nil, &net.DNSError{Err: err.Error(), Name: host, UnwrapErr: err}
	}
	return t.stack.LookupHost(ctx, host)
}

// Listen accepts connections from inside the tunnel: network is tcp, and the host of the address is one of this end's, or left out for all of
// them. Port 0 takes a free one.
func (t *Tunnel) Listen(network, address string) (net.Listener, error) {
	if err := t.use(); err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: fmt.Errorf("%q: %w", address, err)}
	}
	return t.stack.Listen(network, address)
}

// ListenPacket receives datagrams from inside the tunnel: network is udp, and the address as for [Tunnel.Listen].
func (t *Tunnel) ListenPacket(network, address string) (net.PacketConn, error) {
	if err := t.use(); err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: fmt.Errorf("%q: %w", address, err)}
	}
	return t.stack.ListenPacket(network, address)
}

// HTTPClient returns a client whose requests go through the tunnel and nowhere else: neither the proxies of the environment nor the name
// servers of the machine are asked. Its host may be the name of a peer. All clients of a tunnel share their connections.
func (t *Tunnel) HTTPClient() *http.Client { return &http.Client{Transport: t.http} }

// newTransport is http.DefaultTransport with another way to dial, and no proxy.
func newTransport(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Transport {
	return &http.Transport{
		DialContext:         dial,
		ForceAttemptHTTP2:   true,
		MaxIdleConns:        100,
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second,
	}
}
