package signaltest

import (
	"context"
	"slices"
	"sync"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
)

// Recorder is a [signal.Sink] that keeps everything. It is safe for concurrent use.
type Recorder struct {
	mu        sync.Mutex // guards the following
	changed   chan struct{}
	envelopes [][]byte
	available []key.Public
	servers   int
}

var _ signal.Sink = (*Recorder)(nil)

// NewRecorder returns an empty recorder.
func NewRecorder() *Recorder { return &Recorder{changed: make(chan struct{})} }

// Deliver implements [signal.Sink].
func (r *Recorder) Deliver(envelope []byte) {
	r.update(func() { r.envelopes = append(r.envelopes, envelope) })
}

// PeerAvailable implements [signal.Sink].
func (r *Recorder) PeerAvailable(peer key.Public) {
	r.update(func() { r.available = append(r.available, peer) })
}

// ICEServersChanged implements [signal.Sink].
func (r *Recorder) ICEServersChanged() { r.update(func() { r.servers++ }) }

func (r *Recorder) update(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	close(r.changed)
	r.changed = make(chan struct{})
}

// Envelopes returns what was delivered so far, in order.
func (r *Recorder) Envelopes() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.envelopes)
}

// Available returns the peers that were reported so far, in order and with repetitions.
func (r *Recorder) Available() []key.Public {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.available)
}

// ServersChanged returns how often ICEServersChanged was called.
func (r *Recorder) ServersChanged() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.servers
}

// Wait returns nil as soon as cond holds, which is evaluated after each call of the sink, or the cause when ctx has ended.
func (r *Recorder) Wait(ctx context.Context, cond func(*Recorder) bool) error {
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		if cond(r) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
