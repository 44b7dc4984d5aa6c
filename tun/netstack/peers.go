package netstack

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// Peers is what a stack can be told of the tunnel that carries its packets. All methods are safe for concurrent use.
type Peers interface {
	// Addresses returns the addresses of the peer of that name; none if there is no such peer.
	Addresses(name string) []netip.Addr

	// Watch returns the reason when nothing will come of an attempt to connect to the address, and nil when ctx is done. The stack does
	// not wait for what the tunnel knows to be in vain.
	Watch(ctx context.Context, to netip.Addr) error

	// Explain adds to the error of an attempt to connect that took too long what is known of the peer in the way.
	Explain(to netip.Addr, err error) error
}

// SetPeers makes the names of peers count before those of DNS, and lets failed attempts to connect tell of the peer in the way.
func (s *Stack) SetPeers(p Peers) { s.peers.Store(&p) }

// nobody is what a stack knows that was told nothing.
type nobody struct{}

var _ Peers = nobody{}

func (nobody) Addresses(string) []netip.Addr           { return nil }
func (nobody) Watch(context.Context, netip.Addr) error { return nil }
func (nobody) Explain(_ netip.Addr, err error) error   { return err }

// connect makes a TCP connection, as long as ctx permits and the tunnel knows nothing that stands against it.
func (s *Stack) connect(ctx context.Context, remote netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel(nil)
	peers := *s.peers.Load()
	watching.Go(func() {
		if err := peers.Watch(ctx, remote.Addr()); err != nil {
			cancel(err)
		}
	})
	full, protocol := fullAddress(remote)
	c, err := gonet.DialContextTCP(ctx, s.stack, full, protocol)
	switch {
	case err == nil:
		return c, nil
	case ctx.Err() == nil: // refused
		return nil, err
	}
	if why := context.Cause(ctx); why != ctx.Err() {
		return nil, why
	}
	return nil, peers.Explain(remote.Addr(), err)
}
