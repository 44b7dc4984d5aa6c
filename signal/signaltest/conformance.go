// Package signaltest has the conformance suite that every signaling backend passes, and a sink for tests.
//
// A backend may lose, repeat and reorder envelopes, so the suite publishes again until what it waits for has arrived, within the
// harness's patience. It checks what [signal.Backend] promises: who is reached, what is refused, and how it ends.
package signaltest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
)

// Harness is a world in which the backends made by New can reach each other. Each subtest has its own.
type Harness struct {
	// New makes a backend, or fails the test. The suite closes it, before the cleanups of the t that the harness was made with.
	New func(t *testing.T, env signal.Env) signal.Backend

	// Patience is how long anything that must happen may take. Zero: 10 seconds.
	Patience time.Duration

	// Ignore lists goroutines of the world, such as servers that all backends share, which may outlive the backends.
	Ignore []goleak.Option
}

// Run runs the suite.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"BothWays", testBothWays},
		{"LargestEnvelope", testLargestEnvelope},
		{"OversizeRefused", testOversizeRefused},
		{"UnknownPeerRefused", testUnknownPeerRefused},
		{"RemovedPeerRefused", testRemovedPeerRefused},
		{"PeersChanged", testPeersChanged},
		{"OnlyTheRecipient", testOnlyTheRecipient},
		{"ConcurrentPublish", testConcurrentPublish},
		{"PeerAvailable", testPeerAvailable},
		{"PeerRestarts", testPeerRestarts},
		{"ContextHonoured", testContextHonoured},
		{"Close", testClose},
		{"CloseWhilePublishing", testCloseWhilePublishing},
		{"NoGoroutineLeft", testNoGoroutineLeft},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHarness(t)
			if h.Patience == 0 {
				h.Patience = 10 * time.Second
			}
			ctx, cancel := context.WithTimeoutCause(t.Context(), h.Patience, fmt.Errorf("nothing came of it in %v", h.Patience))
			defer cancel()
			test.run(t, &world{harness: h, ctx: ctx})
		})
	}
}

type world struct {
	harness Harness
	ctx     context.Context // ends with the patience
}

// node is a backend with its identity and sink.
type node struct {
	signal.Backend
	*Recorder
	private key.Private
	public  key.Public
}

func (w *world) node(t *testing.T, identity key.Private) *node {
	t.Helper()
	n := &node{Recorder: NewRecorder(), private: identity, public: identity.Public()}
	n.Backend = w.harness.New(t, signal.Env{Identity: identity, Sink: n.Recorder, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return n
}

// pair makes two backends that have each other as peers.
func (w *world) pair(t *testing.T) (a, b *node) {
	t.Helper()
	a, b = w.node(t, key.NewPrivate()), w.node(t, key.NewPrivate())
	a.SetPeers([]key.Public{b.public})
	b.SetPeers([]key.Public{a.public})
	return a, b
}

// again is how long the suite waits for an envelope before it publishes it again.
const again = 100 * time.Millisecond

// deliver publishes until the envelope has arrived.
func (w *world) deliver(t *testing.T, from, to *node, envelope []byte) {
	t.Helper()
	var last error
	for w.ctx.Err() == nil {
		last = from.Publish(w.ctx, to.public, envelope)
		ctx, cancel := context.WithTimeout(w.ctx, again)
		err := to.Wait(ctx, has(envelope))
		cancel()
		if err == nil {
			return
		}
	}
	t.Fatalf("an envelope of %d bytes did not arrive: %v; last result of Publish: %v; status %+v", len(envelope), context.Cause(w.ctx), last, from.Status())
}

func has(envelope []byte) func(*Recorder) bool {
	return func(r *Recorder) bool {
		for _, e := range r.Envelopes() {
			if bytes.Equal(e, envelope) {
				return true
			}
		}
		return false
	}
}

// envelope makes a valid one for the recipient of about the size; each number gives another one.
func envelope(to key.Public, size, number int) []byte {
	sealed := make([]byte, max(size, proto.SealOverhead+8))
	for i := range sealed {
		sealed[i] = byte(i * (number + 1))
	}
	binary.BigEndian.PutUint64(sealed, uint64(number))
	b, err := (&proto.Envelope{Recipient: to, Sealed: sealed}).Marshal()
	if err != nil {
		panic(err)
	}
	return b
}

func testBothWays(t *testing.T, w *world) {
	a, b := w.pair(t)
	ab, ba := envelope(b.public, 500, 1), envelope(a.public, 500, 2)
	kept := bytes.Clone(ab)
	w.deliver(t, a, b, ab)
	clear(ab) // the backend must not have kept it
	w.deliver(t, b, a, ba)
	if !has(kept)(b.Recorder) {
		t.Error("what was delivered changed when the caller wrote to its own slice")
	}
	for _, n := range []*node{a, b} {
		if s := n.Status(); s.Backend == "" || !s.Connected {
			t.Errorf("got status %+v, want a name and connected", s)
		}
	}
}

func testLargestEnvelope(t *testing.T, w *world) {
	a, b := w.pair(t)
	e := envelope(b.public, proto.MaxPayloadSize+proto.SealOverhead, 1)
	w.deliver(t, a, b, e)
	unknown := make([]byte, proto.MaxEnvelopeSize-len(e)) // field 15 of a newer version fills it up to the limit
	unknown[0], unknown[1] = 15<<3|2, byte(len(unknown)-2)
	w.deliver(t, a, b, append(e, unknown...))
}

func testOversizeRefused(t *testing.T, w *world) {
	a, b := w.pair(t)
	w.deliver(t, a, b, envelope(b.public, 100, 1)) // it is not for lack of a connection
	if err := a.Publish(w.ctx, b.public, make([]byte, proto.MaxEnvelopeSize+1)); err == nil {
		t.Error("got no error for an envelope above the limit")
	}
	w.deliver(t, a, b, envelope(b.public, 100, 2)) // it still works
	for _, e := range b.Envelopes() {
		if len(e) > proto.MaxEnvelopeSize {
			t.Errorf("got an envelope of %d bytes, want at most %d", len(e), proto.MaxEnvelopeSize)
		}
	}
}

func testUnknownPeerRefused(t *testing.T, w *world) {
	a, _ := w.pair(t)
	stranger := w.node(t, key.NewPrivate())
	stranger.SetPeers([]key.Public{a.public})
	for _, to := range []key.Public{stranger.public, key.NewPrivate().Public(), {}} {
		if err := a.Publish(w.ctx, to, envelope(stranger.public, 100, 1)); err == nil {
			t.Errorf("got no error for %s, which is not configured", to.Short())
		}
	}
	if n := len(stranger.Envelopes()); n != 0 {
		t.Errorf("a peer that is not configured got %d envelopes", n)
	}
}

func testRemovedPeerRefused(t *testing.T, w *world) {
	a, b := w.pair(t)
	w.deliver(t, a, b, envelope(b.public, 100, 1))
	a.SetPeers(nil)
	if err := a.Publish(w.ctx, b.public, envelope(b.public, 100, 2)); err == nil {
		t.Error("got no error after the peer was removed")
	}
	a.SetPeers([]key.Public{b.public})
	w.deliver(t, a, b, envelope(b.public, 100, 3))
}

func testPeersChanged(t *testing.T, w *world) {
	a, b := w.pair(t)
	changer, ok := a.Backend.(signal.PeerChanger)
	if !ok {
		t.Skip("not a signal.PeerChanger")
	}
	c := w.node(t, key.NewPrivate())
	c.SetPeers([]key.Public{a.public})
	absent := key.NewPrivate().Public()
	changer.ChangePeers([]key.Public{b.public, c.public, a.public}, []key.Public{absent}) // one that is there, and the backend itself
	w.deliver(t, a, b, envelope(b.public, 100, 1))
	w.deliver(t, a, c, envelope(c.public, 100, 2))
	changer.ChangePeers(nil, []key.Public{b.public})
	if err := a.Publish(w.ctx, b.public, envelope(b.public, 100, 3)); err == nil {
		t.Error("got no error after the peer was removed")
	}
	w.deliver(t, a, c, envelope(c.public, 100, 4))
	changer.ChangePeers([]key.Public{b.public}, nil)
	w.deliver(t, a, b, envelope(b.public, 100, 5))
	a.SetPeers([]key.Public{b.public})
	if err := a.Publish(w.ctx, c.public, envelope(c.public, 100, 6)); err == nil {
		t.Error("got no error after all peers but another were replaced")
	}
}

func testOnlyTheRecipient(t *testing.T, w *world) {
	a, b := w.pair(t)
	c := w.node(t, key.NewPrivate())
	all := []key.Public{a.public, b.public, c.public}
	for _, n := range []*node{a, b, c} {
		n.SetPeers(all) // itself included: that must not matter
	}
	toB, toC := envelope(b.public, 100, 1), envelope(c.public, 100, 2)
	w.deliver(t, a, b, toB)
	w.deliver(t, a, c, toC)
	if has(toB)(c.Recorder) || has(toC)(b.Recorder) || len(a.Envelopes()) > 0 {
		t.Error("an envelope arrived at another peer than its recipient")
	}
	for _, n := range []*node{a, b, c} {
		if reported(n.public, 1)(n.Recorder) {
			t.Error("a backend was reported to itself")
		}
	}
}

func testConcurrentPublish(t *testing.T, w *world) {
	const workers, each = 8, 12
	a, b := w.pair(t)
	w.deliver(t, a, b, envelope(b.public, 100, workers*each))
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for j := range each {
				a.SetPeers([]key.Public{b.public})
				a.Status()
				if err := a.Publish(w.ctx, b.public, envelope(b.public, 600, i*each+j)); err != nil {
					t.Errorf("publish: %v", err)
				}
			}
		})
	}
	wg.Wait()
	for i := range workers * each {
		e := envelope(b.public, 600, i)
		ctx, cancel := context.WithTimeout(w.ctx, again)
		err := b.Wait(ctx, has(e))
		cancel()
		if err != nil {
			w.deliver(t, a, b, e)
		}
	}
	valid := make(map[string]bool)
	for i := range workers * each {
		valid[string(envelope(b.public, 600, i))] = true
	}
	valid[string(envelope(b.public, 100, workers*each))] = true
	for _, e := range b.Envelopes() {
		if !valid[string(e)] {
			t.Errorf("got an envelope of %d bytes that nobody sent", len(e))
		}
	}
}

func reported(peer key.Public, times int) func(*Recorder) bool {
	return func(r *Recorder) bool {
		n := 0
		for _, k := range r.Available() {
			if k == peer {
				n++
			}
		}
		return n >= times
	}
}

func testPeerAvailable(t *testing.T, w *world) {
	a := w.node(t, key.NewPrivate())
	later := key.NewPrivate()
	a.SetPeers([]key.Public{later.Public()})
	b := w.node(t, later)
	b.SetPeers([]key.Public{a.public})
	if err := a.Wait(w.ctx, reported(b.public, 1)); err != nil {
		t.Errorf("the first side was not told of the second: %v", err)
	}
	if r, ok := a.Backend.(signal.Reacher); ok {
		if err := r.Reach(b.public); err != nil {
			t.Errorf("a peer that was reported: %v", err)
		}
	}
	w.deliver(t, a, b, envelope(b.public, 100, 1))
	for _, n := range []*node{a, b} {
		for _, k := range n.Available() {
			if k != a.public && k != b.public || k == n.public {
				t.Errorf("%s was reported, which is not a peer", k.Short())
			}
		}
	}
}

func testPeerRestarts(t *testing.T, w *world) {
	a, b := w.pair(t)
	w.deliver(t, a, b, envelope(b.public, 100, 1))
	if err := a.Wait(w.ctx, reported(b.public, 1)); err != nil {
		t.Fatalf("the peer was not reported at first: %v", err)
	}
	before := len(a.Available())
	if err := b.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	b = w.node(t, b.private)
	b.SetPeers([]key.Public{a.public})
	if err := a.Wait(w.ctx, reported(b.public, before+1)); err != nil {
		t.Errorf("the peer was not reported again after its restart: %v", err)
	}
	w.deliver(t, a, b, envelope(b.public, 100, 2))
	w.deliver(t, b, a, envelope(a.public, 100, 3))
}

func testContextHonoured(t *testing.T, w *world) {
	a, b := w.pair(t)
	w.deliver(t, a, b, envelope(b.public, 100, 1))
	ended, cancel := context.WithCancel(w.ctx)
	cancel()
	if err := a.Publish(ended, b.public, envelope(b.public, 100, 2)); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: got %v, want %v", err, context.Canceled)
	}

	absent := key.NewPrivate().Public()
	a.SetPeers([]key.Public{b.public, absent})
	short, cancel := context.WithTimeout(w.ctx, again)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.Publish(short, absent, envelope(absent, 100, 3)) // a backend that stores accepts it, others can't
	}()
	select {
	case <-done:
	case <-w.ctx.Done():
		t.Errorf("Publish to an absent peer did not return when its context had ended")
	}
}

func testClose(t *testing.T, w *world) {
	a, b := w.pair(t)
	w.deliver(t, a, b, envelope(b.public, 100, 1))
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := b.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	wg.Wait()
	count := len(b.Envelopes()) + len(b.Available()) + b.ServersChanged()
	if b.Status().Connected {
		t.Error("a closed backend says that it is connected")
	}
	b.SetPeers([]key.Public{a.public})
	if err := b.Publish(w.ctx, a.public, envelope(a.public, 100, 2)); err == nil {
		t.Error("got no error for publishing with a closed backend")
	}
	short, cancel := context.WithTimeout(w.ctx, again)
	defer cancel()
	a.Publish(short, b.public, envelope(b.public, 100, 3)) // may fail, or not notice yet
	if now := len(b.Envelopes()) + len(b.Available()) + b.ServersChanged(); now != count {
		t.Errorf("the sink was called %d times after Close", now-count)
	}
}

func testCloseWhilePublishing(t *testing.T, w *world) {
	a, b := w.pair(t)
	w.deliver(t, a, b, envelope(b.public, 100, 1))
	var closed atomic.Bool
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := 0; w.ctx.Err() == nil; j++ {
				if a.Publish(w.ctx, b.public, envelope(b.public, 200, i<<20+j)) != nil && closed.Load() {
					return
				}
			}
		})
	}
	if err := b.Wait(w.ctx, func(r *Recorder) bool { return len(r.Envelopes()) > 8 }); err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("close the receiver: %v", err)
	}
	count := len(b.Envelopes())
	if err := a.Close(); err != nil {
		t.Errorf("close the sender: %v", err)
	}
	closed.Store(true)
	wg.Wait()
	if w.ctx.Err() != nil {
		t.Error("Publish succeeds or hangs after Close")
	}
	if now := len(b.Envelopes()); now != count {
		t.Errorf("%d envelopes were delivered after Close", now-count)
	}
}

func testNoGoroutineLeft(t *testing.T, w *world) {
	before := goleak.IgnoreCurrent()
	a, b := w.pair(t)
	w.deliver(t, a, b, envelope(b.public, 100, 1))
	for _, n := range []*node{a, b} {
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if err := goleak.Find(append(w.harness.Ignore, before)...); err != nil {
		t.Error(err)
	}
}
