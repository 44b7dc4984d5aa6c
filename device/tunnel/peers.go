package tunnel

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/wice-go/wice-go/device"
	"github.com/wice-go/wice-go/device/control"
)

const (
	// patience is how long a dial waits for a peer that is not connected. ICE takes a second, and finding the peer some more.
	patience = 10 * time.Second

	// waitCheck is how often Wait looks.
	waitCheck = 20 * time.Millisecond
)

// PeerError says which peer was in the way of a connection, and why.
type PeerError = device.PeerError

// Status returns a snapshot: of each peer the state, the path, the reason why it is not connected or not direct, and the traffic.
func (t *Tunnel) Status() (*control.Status, error) {
	s, err := t.dev.Status(t.ctx)
	if t.ctx.Err() != nil {
		return nil, net.ErrClosed // a device that is closing has no peers: Wait would take that for all of them connected
	}
	return s, err
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
