// Package inproc carries envelopes between the interfaces of one process: for several interfaces at once, and for tests.
//
// The backends of one [Bus] reach each other if each has the other among its peers. Nothing is lost, repeated or reordered, and a peer is
// reported as available as soon as both sides know each other.
package inproc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"sync"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
)

// Name is what the backends of this package call themselves.
const Name = "inproc"

// ErrAbsent says that a peer has no backend on the bus, or one that does not have us among its peers.
var ErrAbsent = errors.New("the peer is not on the bus, or does not have us among its peers")

// Bus connects backends. The zero value is an empty bus. All methods are safe for concurrent use.
type Bus struct {
	mu       sync.Mutex // guards the following, and the peers of the backends
	backends map[key.Public]*Backend
}

// New adds a backend for the identity, of which there can be one at a time. It is a [signal.Factory]; the queries must be empty.
func (b *Bus) New(_ context.Context, env signal.Env, urls []url.Values) (signal.Backend, error) {
	for _, u := range urls {
		if len(u) > 0 {
			return nil, fmt.Errorf("new %s backend: unknown parameters %q: there are none", Name, u.Encode())
		}
	}
	n := &Backend{bus: b, self: env.Identity.Public(), sink: env.Sink, peers: make(map[key.Public]bool)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.backends[n.self] != nil {
		return nil, fmt.Errorf("new %s backend: the bus already has one for %s", Name, n.self.Short())
	}
	if b.backends == nil {
		b.backends = make(map[key.Public]*Backend)
	}
	b.backends[n.self] = n
	return n, nil
}

// Backend is one interface's connection to a [Bus].
type Backend struct {
	bus  *Bus
	self key.Public
	sink signal.Sink

	calls sync.WaitGroup // calls of sink; Add under bus.mu while on the bus

	// Guarded by bus.mu.
	peers map[key.Public]bool
}

var (
	_ signal.Backend     = (*Backend)(nil)
	_ signal.PeerChanger = (*Backend)(nil)
	_ signal.Factory     = (*Bus)(nil).New
)

// Publish implements [signal.Backend]. The envelope is with the peer's sink when it returns.
func (n *Backend) Publish(ctx context.Context, to key.Public, envelope []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(envelope) > proto.MaxEnvelopeSize {
		return fmt.Errorf("%w: %d bytes, want at most %d", signal.ErrTooLarge, len(envelope), proto.MaxEnvelopeSize)
	}
	n.bus.mu.Lock()
	other, err := n.findLocked(to)
	if err == nil {
		other.calls.Add(1)
	}
	n.bus.mu.Unlock()
	if err != nil {
		return err
	}
	defer other.calls.Done()
	other.sink.Deliver(append([]byte(nil), envelope...))
	return nil
}

func (n *Backend) findLocked(to key.Public) (*Backend, error) {
	if n.bus.backends[n.self] != n {
		return nil, signal.ErrClosed
	}
	if !n.peers[to] {
		return nil, signal.ErrUnknownPeer
	}
	other := n.bus.backends[to]
	if other == nil || !other.peers[n.self] {
		return nil, ErrAbsent
	}
	return other, nil
}

// SetPeers implements [signal.Backend].
func (n *Backend) SetPeers(peers []key.Public) {
	keep := make(map[key.Public]bool, len(peers))
	for _, k := range peers {
		keep[k] = true
	}
	n.changePeers(peers, func() {
		maps.DeleteFunc(n.peers, func(k key.Public, _ bool) bool { return !keep[k] })
	})
}

// ChangePeers implements [signal.PeerChanger].
func (n *Backend) ChangePeers(added, removed []key.Public) {
	n.changePeers(added, func() {
		for _, k := range removed {
			delete(n.peers, k)
		}
	})
}

func (n *Backend) changePeers(added []key.Public, remove func()) {
	type call struct {
		to   *Backend
		peer key.Public
	}
	var calls []call
	n.bus.mu.Lock()
	remove()
	for _, k := range added {
		if k == n.self || n.peers[k] {
			continue
		}
		n.peers[k] = true
		if other, err := n.findLocked(k); err == nil {
			n.calls.Add(1)
			other.calls.Add(1)
			calls = append(calls, call{n, k}, call{other, n.self})
		}
	}
	n.bus.mu.Unlock()
	for _, c := range calls {
		c.to.sink.PeerAvailable(c.peer)
		c.to.calls.Done()
	}
}

// Status implements [signal.Backend].
func (n *Backend) Status() signal.Status {
	n.bus.mu.Lock()
	defer n.bus.mu.Unlock()
	if n.bus.backends[n.self] != n {
		return signal.Status{Backend: Name, Detail: "closed"}
	}
	present := 0
	for k := range n.peers {
		if _, err := n.findLocked(k); err == nil {
			present++
		}
	}
	return signal.Status{Backend: Name, Connected: true, Detail: fmt.Sprintf("%d of %d peers are on the bus", present, len(n.peers))}
}

// Close implements [signal.Backend]. It takes the backend off the bus, so that another one for the same identity can join.
func (n *Backend) Close() error {
	n.bus.mu.Lock()
	if n.bus.backends[n.self] == n {
		delete(n.bus.backends, n.self)
	}
	n.bus.mu.Unlock()
	n.calls.Wait()
	return nil
}
