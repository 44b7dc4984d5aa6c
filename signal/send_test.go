package signal

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
)

// newSender makes a router with one peer and the backends, some of which are added before the peer.
func newSender(t *testing.T, backends ...Backend) (r *Router, peer key.Private) {
	peer = key.NewPrivate()
	r = NewRouter(RouterOptions{Identity: key.NewPrivate()})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	for i, b := range backends {
		if i == 1 {
			r.SetPeers([]key.Public{peer.Public()})
		}
		r.Add(b)
	}
	r.SetPeers([]key.Public{peer.Public()})
	return r, peer
}

// advance moves the clock of the bubble, and lets everything happen that is due.
func advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// outbox keeps what it accepts.
type outbox struct {
	mu        sync.Mutex // guards the following
	envelopes [][]byte
}

func (o *outbox) accept(_ context.Context, _ key.Public, envelope []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.envelopes = append(o.envelopes, bytes.Clone(envelope))
	return nil
}

var errDown = errors.New("down")

func refuse(context.Context, key.Public, []byte) error { return errDown }

func hang(ctx context.Context, _ key.Public, _ []byte) error {
	<-ctx.Done()
	return ctx.Err()
}

// timestamps opens the envelopes for the peer.
func timestamps(t *testing.T, peer key.Private, envelopes [][]byte) (all []proto.Timestamp) {
	t.Helper()
	for _, b := range envelopes {
		e, err := proto.UnmarshalEnvelope(b)
		if err != nil {
			t.Fatal(err)
		}
		_, payload, err := newSealer(peer).open(e)
		if err != nil {
			t.Fatal(err)
		}
		_, ts, err := proto.UnmarshalOffer(payload)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ts)
	}
	return all
}

func TestSendOnAllBackends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var x, y outbox
		a, b, down := &fakeBackend{name: "a", publish: x.accept}, &fakeBackend{name: "b", publish: y.accept}, &fakeBackend{name: "c", publish: refuse}
		r, peer := newSender(t, a, b, down)
		if err := r.Send(t.Context(), peer.Public(), offer(0)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(x.envelopes) != 1 || len(y.envelopes) != 1 || !bytes.Equal(x.envelopes[0], y.envelopes[0]) {
			t.Errorf("got %d and %d envelopes, want the same one on both", len(x.envelopes), len(y.envelopes))
		}
		for _, b := range []*fakeBackend{a, b, down} {
			if !slices.Equal(b.peers, []key.Public{peer.Public()}) {
				t.Errorf("%s: got peers %v", b.name, b.peers)
			}
		}
		if s := r.Stats(); s.Sent != 1 || s.Unsent != 0 {
			t.Errorf("got %+v", s)
		}
	})
}

func TestSendDoesNotWaitForTheSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fast, slow outbox
		r, peer := newSender(t,
			&fakeBackend{name: "slow", publish: func(ctx context.Context, to key.Public, e []byte) error {
				select {
				case <-time.After(5 * time.Second):
					return slow.accept(ctx, to, e)
				case <-ctx.Done():
					return ctx.Err()
				}
			}},
			&fakeBackend{name: "fast", publish: fast.accept})
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		if err := r.Send(ctx, peer.Public(), offer(0)); err != nil {
			t.Fatal(err)
		}
		cancel() // as callers do that made the context for this call; the slow backend goes on
		if d := time.Since(start); d != 0 {
			t.Errorf("Send took %v", d)
		}
		advance(6 * time.Second)
		if len(slow.envelopes) != 1 {
			t.Error("the slow backend was cut off")
		}
	})
}

func TestSendFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, peer := newSender(t, &fakeBackend{name: "one", publish: refuse}, &fakeBackend{name: "two", publish: hang})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := r.Send(ctx, peer.Public(), offer(0))
		if !errors.Is(err, errDown) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "through one") {
			t.Errorf("got %v, want both reasons and the backend's name", err)
		}
		err = r.Send(t.Context(), peer.Public(), offer(0)) // nothing ends it but the router's own limit
		if !errors.Is(err, errDown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want both reasons", err)
		}
		if err := r.Send(t.Context(), key.Public{1}, offer(0)); !errors.Is(err, ErrUnknownPeer) {
			t.Errorf("got %v, want %v", err, ErrUnknownPeer)
		}
		if err := r.Send(t.Context(), peer.Public(), &proto.Offer{}); err == nil {
			t.Error("an offer that is not valid is sent")
		}
		if s := r.Stats(); s.Sent != 0 || s.Unsent != 4 {
			t.Errorf("got %+v", s)
		}
	})
}

// knowing is a backend that knows whom it can reach.
type knowing struct {
	*fakeBackend
	err error
}

func (k *knowing) Reach(key.Public) error { return k.err }

func TestSendToUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var x, y outbox
		a := &knowing{&fakeBackend{name: "a", publish: x.accept}, errDown}
		b := &knowing{&fakeBackend{name: "b", publish: y.accept}, nil}
		r, peer := newSender(t, a, b)
		if err := r.Send(t.Context(), peer.Public(), offer(0)); err != nil {
			t.Errorf("one of them reaches the peer: got %v", err)
		}
		synctest.Wait()
		if len(y.envelopes) != 1 {
			t.Errorf("got %d envelopes", len(y.envelopes))
		}
		sent := len(x.envelopes)
		gone := errors.New("gone")
		b.err = gone
		if err := r.Send(t.Context(), peer.Public(), offer(0)); !errors.Is(err, errDown) || !errors.Is(err, gone) {
			t.Errorf("got %v, want both reasons", err)
		}
		if err := r.Send(t.Context(), key.Public{1}, offer(0)); !errors.Is(err, ErrUnknownPeer) {
			t.Errorf("got %v, want %v", err, ErrUnknownPeer)
		}
		synctest.Wait()
		if len(x.envelopes) != sent || len(y.envelopes) != 1 {
			t.Error("an envelope was published for a peer that can't be reached")
		}
		r.Add(&fakeBackend{name: "c", publish: x.accept})
		if err := r.Send(t.Context(), peer.Public(), offer(0)); err != nil {
			t.Errorf("one of them may reach the peer: got %v", err)
		}
	})
}

func TestSendWithoutBackend(t *testing.T) {
	r, peer := newSender(t)
	if err := r.Send(t.Context(), peer.Public(), offer(0)); !errors.Is(err, ErrNoBackend) {
		t.Errorf("got %v, want %v", err, ErrNoBackend)
	}
}

func TestHangingBackendIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fast outbox
		var mu sync.Mutex
		attempts := 0
		r, peer := newSender(t, &fakeBackend{name: "hangs", publish: func(ctx context.Context, to key.Public, e []byte) error {
			mu.Lock()
			attempts++
			mu.Unlock()
			return hang(ctx, to, e)
		}}, &fakeBackend{name: "fast", publish: fast.accept})
		for n := range maxPublishes + 10 {
			if err := r.Send(t.Context(), peer.Public(), offer(uint32(n))); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if attempts != maxPublishes {
			t.Errorf("got %d attempts at once, want %d", attempts, maxPublishes)
		}
	}) // Close ends them all
}

func TestCloseEndsSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, peer := newSender(t, &fakeBackend{name: "hangs", publish: hang})
		done := make(chan error, 1)
		go func() { done <- r.Send(t.Context(), peer.Public(), offer(0)) }()
		synctest.Wait()
		start := time.Now()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, context.Canceled) || time.Since(start) != 0 {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

// TestTimestamps checks their order while the clock stands still, and that a new process is ahead of the old one.
func TestTimestamps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var box outbox
		r, peer := newSender(t, &fakeBackend{name: "x", publish: box.accept})
		for n := range 5 { // the bubble's clock stands still
			if err := r.Send(t.Context(), peer.Public(), offer(uint32(n))); err != nil {
				t.Fatal(err)
			}
		}
		now := time.Now()
		for i, ts := range timestamps(t, peer, box.envelopes) {
			if want := proto.TimestampOf(now.Add(time.Duration(i))); ts != want {
				t.Errorf("got %x, want %x", ts, want)
			}
		}
		advance(time.Microsecond)
		restarted, other := newSender(t, &fakeBackend{name: "x", publish: box.accept})
		if err := restarted.Send(t.Context(), other.Public(), offer(0)); err != nil {
			t.Fatal(err)
		}
		last := timestamps(t, other, box.envelopes[5:])
		if last[0].Compare(proto.TimestampOf(now.Add(5))) <= 0 {
			t.Errorf("a new process sends %x", last[0])
		}
	})
}
