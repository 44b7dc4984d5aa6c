package libp2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/libp2p/node"
)

const (
	// publishTimeout bounds a whole Publish: a few ways to the peer, each with its own bound. The session tries again anyway.
	publishTimeout = 15 * time.Second

	// directAck and circuitAck bound the wait for the acknowledgement on a connection. A connection that takes longer is closed:
	// its other end was restarted or is gone, which QUIC would notice only after half a minute.
	directAck  = 2 * time.Second
	circuitAck = 4 * time.Second

	// maxStale bounds how many connections without answer are closed one after the other before a new one is made.
	maxStale = 4
)

var (
	// ErrNotConfigured says that an envelope is for somebody who is not a configured peer.
	ErrNotConfigured = errors.New("not a configured peer")
	// ErrClosed says that the backend was closed.
	ErrClosed = errors.New("the libp2p signaling backend is closed")

	errNoAck   = errors.New("the peer did not acknowledge")
	errDropped = errors.New("the peer dropped the connection: does its configuration have our public key?")
)

// Publish implements [signal.Backend]. It returns nil when the peer acknowledged.
func (b *Backend) Publish(ctx context.Context, to key.Public, envelope []byte) error {
	id, ok := b.gater.id(to)
	var err error
	if !ok {
		err = ErrNotConfigured
	}
	if err == nil && len(envelope) > proto.MaxEnvelopeSize {
		err = fmt.Errorf("%d bytes are more than the %d that an envelope may have", len(envelope), proto.MaxEnvelopeSize)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && !b.enter() {
		err = ErrClosed
	}
	if err != nil {
		return fmt.Errorf("libp2p: publish to %s: %w", to.Short(), err)
	}
	defer b.wg.Done()

	within, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	defer context.AfterFunc(b.ctx, cancel)()
	if err := b.deliver(network.WithAllowLimitedConn(within, "signaling"), id, envelope); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return fmt.Errorf("libp2p: publish to %s: %w", to.Short(), err)
	}
	b.used(id)
	return nil
}

// Reach implements [signal.Reacher].
func (b *Backend) Reach(to key.Public) error {
	err := ErrNotConfigured
	if id, ok := b.gater.id(to); ok {
		if b.mayDial(id) || b.newest(id) != nil {
			return nil
		}
		err = b.nowhere()
	}
	return fmt.Errorf("libp2p: reach %s: %w", to.Short(), err)
}

// mayDial reports whether there is an address of the peer, or somebody to ask for one.
func (b *Backend) mayDial(id peer.ID) bool {
	connected := func(r *relay) bool { ok, _ := r.status(); return ok || b.dht != nil && r.linked() }
	if slices.ContainsFunc(b.relays, connected) || b.dht != nil && b.dht.dht.RoutingTable().Size() > 0 {
		return true
	}
	b.mu.Lock() // see found
	defer b.mu.Unlock()
	return len(b.host.Peerstore().Addrs(id)) > 0
}

// nowhere says why there is no address of a peer.
func (b *Backend) nowhere() error {
	if len(b.relays) == 0 {
		return errors.New("it was not found on the local network, and no bootstrap is configured")
	}
	return errors.New("no address of it is known, and no bootstrap is connected")
}

func (b *Backend) deliver(ctx context.Context, id peer.ID, envelope []byte) error {
	for range maxStale {
		c := b.newest(id)
		if c == nil {
			break
		}
		err := send(ctx, c, envelope)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		b.log.Debug("connection without answer closed", "peer", id, "address", c.RemoteMultiaddr(), "error", err)
		c.Close()
		b.doubt(c)
	}
	c, err := b.dial(ctx, id)
	if err != nil {
		return err
	}
	if err := send(ctx, c, envelope); err != nil {
		c.Close()
		b.doubt(c)
		return err
	}
	return nil
}

// doubt has the bootstrap checked whose circuit failed.
func (b *Backend) doubt(c network.Conn) {
	id, ok := circuitRelay(c.RemoteMultiaddr())
	for _, r := range b.relays {
		if ok && r.info.ID == id {
			wake(r.check)
		}
	}
}

// newest picks the connection to send on: direct ones before circuits, and of those the one made last, because after a restart of
// the peer the older ones lead nowhere.
func (b *Backend) newest(id peer.ID) network.Conn {
	conns := slices.DeleteFunc(slices.Clone(b.host.Network().ConnsToPeer(id)), network.Conn.IsClosed)
	if len(conns) == 0 {
		return nil
	}
	return slices.MinFunc(conns, func(a, c network.Conn) int {
		if a.Stat().Limited != c.Stat().Limited {
			if a.Stat().Limited {
				return 1
			}
			return -1
		}
		return c.Stat().Opened.Compare(a.Stat().Opened)
	})
}

// dial makes a connection by whatever way works first.
func (b *Backend) dial(ctx context.Context, id peer.ID) (network.Conn, error) {
	b.addCircuits(id)
	b.host.ForgetFailures(id)
	c, err := b.host.Network().DialPeer(ctx, id)
	if err == nil {
		return c, nil
	}
	if b.dht != nil && ctx.Err() == nil {
		found := b.dht.find(ctx, id)
		if fresh := subtract(found, b.host.Peerstore().Addrs(id)); len(fresh) > 0 {
			b.host.Peerstore().AddAddrs(id, fresh, peerstore.TempAddrTTL)
			b.host.ForgetFailures(id)
			if c, err2 := b.host.Network().DialPeer(ctx, id); err2 == nil {
				return c, nil
			} else {
				err = err2
			}
		}
	}
	return nil, b.explain(err)
}

// addCircuits adds the ways through the bootstraps that are connected.
func (b *Backend) addCircuits(id peer.ID) {
	for _, r := range b.relays {
		if circuits := r.circuits(); len(circuits) > 0 {
			b.host.Peerstore().AddAddrs(id, circuits, peerstore.TempAddrTTL)
		}
	}
}

func subtract(addrs, known []ma.Multiaddr) []ma.Multiaddr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a ma.Multiaddr) bool {
		return slices.ContainsFunc(known, a.Equal)
	})
}

// send hands one envelope over. The protocol is proposed together with the envelope, which saves a round trip.
func send(ctx context.Context, c network.Conn, envelope []byte) error {
	patience := directAck
	if c.Stat().Limited {
		patience = circuitAck
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := c.NewStream(ctx)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { s.Reset() })()
	if err := s.SetProtocol(node.SignalProtocol); err != nil {
		s.Reset()
		return err
	}
	stream := multistream.NewMSSelect(s, node.SignalProtocol)
	if err := node.WriteFrame(stream, envelope, proto.MaxEnvelopeSize); err != nil {
		s.Reset()
		return err
	}
	if err := s.CloseWrite(); err != nil {
		s.Reset()
		return err
	}
	var ack [1]byte
	if _, err := io.ReadFull(stream, ack[:]); err != nil {
		s.Reset()
		if errors.Is(err, network.ErrReset) && ctx.Err() == nil {
			return errDropped
		}
		return fmt.Errorf("%w: %w", errNoAck, err)
	}
	if ack[0] != node.Ack {
		s.Reset()
		return errNoAck
	}
	return s.Close()
}

// explain shortens libp2p's list of failed dials to what a person can act on.
func (b *Backend) explain(err error) error {
	var d *swarm.DialError
	if !errors.As(err, &d) {
		return err
	}
	if errors.Is(err, swarm.ErrNoAddresses) || errors.Is(err, swarm.ErrNoGoodAddresses) {
		return b.nowhere()
	}
	var reasons []string
	for _, t := range d.DialErrors {
		reason := t.Address.String() + ": " + t.Cause.Error()
		if relay, ok := circuitRelay(t.Address); ok {
			reason = "through bootstrap " + b.relayName(relay) + ": " + circuitReason(t.Cause)
		}
		if !slices.Contains(reasons, reason) {
			reasons = append(reasons, reason)
		}
	}
	if len(reasons) == 0 {
		return err
	}
	return errors.New(strings.Join(reasons, "; "))
}

func circuitReason(err error) string {
	if strings.Contains(err.Error(), "NO_RESERVATION") {
		return "the peer is not connected there"
	}
	return err.Error()
}

func (b *Backend) relayName(id peer.ID) string {
	for _, r := range b.relays {
		if r.info.ID == id {
			return r.name
		}
	}
	return id.String()
}
