package signal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
)

var (
	// ErrNoBackend says that a router has nothing to send with.
	ErrNoBackend = errors.New("no signaling backend is configured")

	errBusy = errors.New("too many attempts are under way")
)

// publisher is a backend with a bound on the attempts at a time.
type publisher struct {
	Backend
	slots chan struct{}
}

func (p *publisher) publish(ctx context.Context, to key.Public, envelope []byte) error {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	default:
		return fmt.Errorf("publish to %s through %s: %w", to.Short(), p.Status().Backend, errBusy)
	}
	if err := p.Publish(ctx, to, envelope); err != nil {
		return fmt.Errorf("publish to %s through %s: %w", to.Short(), p.Status().Backend, err)
	}
	return nil
}

// Send publishes an offer on all backends at once. It returns nil as soon as one has accepted it, while the others go on for at
// most half a minute; so one that is down holds up nothing. If none accepts it the error has all the reasons. When ctx ends
// before one has accepted it, all attempts end.
func (r *Router) Send(ctx context.Context, peer key.Public, o *proto.Offer) error {
	err := r.send(ctx, peer, o)
	if err != nil {
		r.counters.unsent.Add(1)
		return fmt.Errorf("send offer to %s: %w", peer.Short(), err)
	}
	r.counters.sent.Add(1)
	return nil
}

func (r *Router) send(ctx context.Context, peer key.Public, o *proto.Offer) error {
	ts, err := r.nextTimestamp(peer)
	if err != nil {
		return err
	}
	if err := r.Reach(peer); err != nil {
		return err
	}
	payload, err := o.Marshal(ts)
	if err != nil {
		return err
	}
	envelope, err := r.sealer.seal(peer, payload)
	if err != nil {
		return err
	}

	r.mu.Lock()
	if r.closing.Load() {
		r.mu.Unlock()
		return ErrClosed
	}
	backends := slices.Clone(r.backends)
	r.publishes.Add(len(backends))
	r.mu.Unlock()
	if len(backends) == 0 {
		return ErrNoBackend
	}

	attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
	stop := context.AfterFunc(r.ctx, cancel)
	var left atomic.Int32
	left.Store(int32(len(backends)))
	results := make(chan error, len(backends))
	for _, b := range backends {
		go func() { // waited for by Close
			defer r.publishes.Done()
			results <- b.publish(attempt, peer, envelope)
			if left.Add(-1) == 0 {
				stop()
				cancel()
			}
		}()
	}
	var errs []error
	for range backends {
		select {
		case err := <-results:
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		case <-ctx.Done():
			cancel()
			return errors.Join(append(errs, ctx.Err())...)
		}
	}
	return errors.Join(errs...)
}

// Reach returns why no backend can reach the peer at present, nil if one may. It is cheap.
func (r *Router) Reach(peer key.Public) error {
	var errs []error
	for _, b := range r.snapshot() {
		reacher, ok := b.Backend.(Reacher)
		if !ok {
			return nil
		}
		err := reacher.Reach(peer)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// nextTimestamp is the time of the clock, but always later than the last one: clocks stand still for longer than it takes to send
// twice, and are set back.
func (r *Router) nextTimestamp(to key.Public) (proto.Timestamp, error) {
	ts := proto.TimestampOf(time.Now())
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing.Load() {
		return ts, ErrClosed
	}
	if _, ok := r.peers[to]; !ok {
		return ts, ErrUnknownPeer
	}
	if ts.Compare(r.lastSent) <= 0 {
		ts = r.lastSent.Next()
	}
	r.lastSent = ts
	return ts, nil
}
