package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/tun/netstack"
)

const (
	// patience is how long a dial waits for a peer that is not connected. ICE takes a second, and finding the peer some more.
	patience = 10 * time.Second

	// dialCheck is how often a dial that takes long looks for the reason.
	dialCheck = 250 * time.Millisecond

	// waitCheck is how often Wait looks.
	waitCheck = 20 * time.Millisecond
)

var (
	errNotConnected = errors.New("not connected")
	errNoPeer       = errors.New("the address is among no peer's AllowedIPs")
)

// PeerError says which peer was in the way of a connection, and why.
type PeerError struct {
	Peer   string            // name, or the beginning of the key
	State  control.PeerState // "connected": it is the host behind the peer that does not answer
	Reason string            // why it is not connected, or not direct; "": it is both
	Err    error             // what came of the attempt
}

// Error names the peer, its state and the reason.
func (e *PeerError) Error() string {
	text := fmt.Sprintf("%v: peer %s is %s", e.Err, e.Peer, e.State)
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// Unwrap returns what came of the attempt.
func (e *PeerError) Unwrap() error { return e.Err }

func peerError(p *control.PeerStatus, err error) error {
	return &PeerError{Peer: p.DisplayName(), State: p.State, Reason: p.Reason, Err: err}
}

// peers tells the stack of the peers.
type peers struct{ t *Tunnel }

var _ netstack.Peers = peers{}

// Addresses implements [netstack.Peers].
func (p peers) Addresses(name string) (list []netip.Addr) {
	s, err := p.t.Status()
	if err != nil || name == "" {
		return nil
	}
	for _, peer := range s.Peers {
		if peer.Name != name {
			continue
		}
		for _, prefix := range peer.AllowedIPs {
			if prefix.IsSingleIP() {
				list = append(list, prefix.Addr())
			}
		}
	}
	return list
}

// Watch implements [netstack.Peers]: an address needs a peer, and the peer a path before long.
func (p peers) Watch(ctx context.Context, to netip.Addr) error {
	tick := time.NewTicker(dialCheck)
	defer tick.Stop()
	for start := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s, err := p.t.Status()
		if err != nil {
			return err
		}
		switch peer := s.RouteTo(to); {
		case peer == nil && !p.t.owns(to):
			return errNoPeer
		case peer != nil && !hasPath(peer) && time.Since(start) > p.t.patience:
			return peerError(peer, errNotConnected)
		}
	}
}

// Explain implements [netstack.Peers].
func (p peers) Explain(to netip.Addr, err error) error {
	s, statusErr := p.t.Status()
	if statusErr != nil {
		return err
	}
	peer := s.RouteTo(to)
	switch {
	case peer != nil:
		return peerError(peer, err)
	case p.t.owns(to):
		return err
	}
	return fmt.Errorf("%w: %w", errNoPeer, err)
}

// hasPath reports whether packets can reach the peer, as far as is known.
func hasPath(p *control.PeerStatus) bool {
	return p.State == control.StateConnected || p.State == control.StatePlain && p.Path != nil
}

// owns reports whether the address is this end's.
func (t *Tunnel) owns(addr netip.Addr) bool {
	for _, own := range t.cfg.Interface.Addresses {
		if own.Addr() == addr {
			return true
		}
	}
	return false
}

// Status returns a snapshot: of each peer the state, the path, the reason why it is not connected or not direct, and the traffic.
func (t *Tunnel) Status() (*control.Status, error) {
	if t.ctx.Err() != nil {
		return nil, net.ErrClosed
	}
	return t.dev.Status(t.ctx)
}

// Wait returns when every peer that takes part in ICE is connected. When ctx ends before, the error says which are not and why.
func (t *Tunnel) Wait(ctx context.Context) error {
	tick := time.NewTicker(waitCheck)
	defer tick.Stop()
	for {
		s, err := t.Status()
		if err != nil {
			return err
		}
		missing := s.NotConnected()
		if len(missing) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-t.ctx.Done():
			return net.ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("%w: not connected: %s", ctx.Err(), strings.Join(missing, "; "))
		}
	}
}

// Ping sends one echo request to the peer of that name, key or overlay address, and waits for the reply for 5 s at most. It returns
// [control.ErrNoSuchPeer], [control.ErrNoReply], or errors that wrap them and say why.
func (t *Tunnel) Ping(ctx context.Context, peer string) (control.PingReply, error) {
	if t.ctx.Err() != nil {
		return control.PingReply{}, net.ErrClosed
	}
	return t.dev.Ping(ctx, control.PingRequest{Peer: peer})
}
