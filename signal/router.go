package signal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
)

const (
	// queueLength is how many envelopes may wait for being opened: at most 4 MiB. All the peers of a large mesh may start at once.
	queueLength = 256

	// openRate and openBurst bound how many seals are opened per second. One costs about 0.15 ms, so that a flood takes less
	// than a tenth of one processor; a mesh of 500 peers that all start at once is through in seconds.
	openRate  = 500
	openBurst = 500

	// peerRate and peerBurst bound the offers of one peer: a session makes at most one per candidate and some repetitions, and
	// a few sessions may follow each other quickly.
	peerRate  = 10
	peerBurst = 3 * proto.MaxCandidates

	// publishTimeout ends an attempt of a slow backend whose caller was served by a faster one.
	publishTimeout = 30 * time.Second

	// maxPublishes bounds the attempts of one backend at a time, so that one which hangs does not collect goroutines.
	maxPublishes = 128
)

// RouterOptions says whom a [Router] works for.
type RouterOptions struct {
	Identity key.Private  // required: the interface's WireGuard key
	Logger   *slog.Logger // nil: nothing is logged

	// The handlers are called one after the other from one goroutine, and not any more once Close has returned. They should
	// not block, as that holds up all peers, and must not call Close. Nil: nothing is called.
	OnOffer             func(peer key.Public, o *proto.Offer) // a fresh, valid offer of a configured peer, the callee's from then on
	OnPeerAvailable     func(peer key.Public)                 // a configured peer can be reached now
	OnICEServersChanged func()                                // [Router.ICEServers] may return something else now
}

// Router seals offers and publishes them on all backends, and opens and checks what they deliver (see the package comment). It is
// the [Sink] of its backends. All methods are safe for concurrent use.
//
// Lock order: configMu, mu. Only configMu is held while a backend is called.
type Router struct {
	// Immutable.
	options  RouterOptions
	sealer   *sealer
	log      *dropLog
	queue    chan []byte
	wake     chan struct{} // has one element if there are events
	ctx      context.Context
	cancel   context.CancelFunc
	closed   chan struct{} // closed when Close is done
	closeErr error         // written before closed is closed

	counters  counters
	closing   atomic.Bool
	publishes sync.WaitGroup // Add under mu while not closing
	worker    sync.WaitGroup

	configMu sync.Mutex // makes SetPeers, ChangePeers and Add reach every backend in the same order

	mu            sync.Mutex // guards the following
	backends      []*publisher
	peers         map[key.Public]*peer // those that are configured; nil: it was not heard of yet
	lastSent      proto.Timestamp
	available     map[key.Public]struct{} // configured peers that were reported since the worker looked last
	serversChange bool
}

var _ Sink = (*Router)(nil)

// NewRouter starts a router without backends and peers. It must be closed.
func NewRouter(options RouterOptions) *Router {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.OnOffer == nil {
		options.OnOffer = func(key.Public, *proto.Offer) {}
	}
	if options.OnPeerAvailable == nil {
		options.OnPeerAvailable = func(key.Public) {}
	}
	if options.OnICEServersChanged == nil {
		options.OnICEServersChanged = func() {}
	}
	r := &Router{
		options:   options,
		sealer:    newSealer(options.Identity),
		queue:     make(chan []byte, queueLength),
		wake:      make(chan struct{}, 1),
		closed:    make(chan struct{}),
		peers:     make(map[key.Public]*peer),
		available: make(map[key.Public]struct{}),
	}
	r.log = newDropLog(options.Logger, &r.counters)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.worker.Go(r.work)
	return r
}

// Add makes the router use a backend, which must have been made with the router as its sink. From then on it is the router's to close.
func (r *Router) Add(b Backend) {
	r.configMu.Lock()
	defer r.configMu.Unlock()
	r.mu.Lock()
	closing := r.closing.Load()
	if !closing {
		r.backends = append(r.backends, &publisher{Backend: b, slots: make(chan struct{}, maxPublishes)})
	}
	peers := r.peerKeysLocked()
	r.mu.Unlock()
	if closing {
		if err := b.Close(); err != nil {
			r.options.Logger.Warn("signaling backend does not close", "backend", b.Status().Backend, "error", err)
		}
		return
	}
	b.SetPeers(peers)
	if _, ok := b.(ICEServerSource); ok {
		r.ICEServersChanged()
	}
}

// SetPeers replaces the set of configured peers. What is known of a removed peer is forgotten, the timestamps included. An offer of a removed
// peer may still be passed on while SetPeers runs.
func (r *Router) SetPeers(peers []key.Public) {
	r.configMu.Lock()
	defer r.configMu.Unlock()
	keep := make(map[key.Public]bool, len(peers))
	for _, k := range peers {
		keep[k] = true
	}
	var removed []key.Public
	r.mu.Lock()
	for k := range r.peers {
		if !keep[k] {
			removed = append(removed, k)
		}
	}
	r.mu.Unlock()
	r.changePeers(peers, removed)
}

// ChangePeers is [Router.SetPeers] for one who knows what has changed. That takes as long as there are changes, unless a backend is no
// [PeerChanger]. Peers that are there already may be added again, and others removed that are not there.
func (r *Router) ChangePeers(added, removed []key.Public) {
	r.configMu.Lock()
	defer r.configMu.Unlock()
	r.changePeers(added, removed)
}

// changePeers is ChangePeers for one who holds configMu.
func (r *Router) changePeers(added, removed []key.Public) {
	r.mu.Lock()
	for _, k := range removed {
		delete(r.peers, k)
		delete(r.available, k)
	}
	for _, k := range added {
		if _, ok := r.peers[k]; !ok && k != r.sealer.public { // our own envelopes, reflected, are from nobody
			r.peers[k] = nil
		}
	}
	var keys []key.Public
	if slices.ContainsFunc(r.backends, func(b *publisher) bool { _, ok := b.Backend.(PeerChanger); return !ok }) {
		keys = r.peerKeysLocked()
	}
	backends := slices.Clone(r.backends)
	r.mu.Unlock()
	for _, b := range backends {
		if c, ok := b.Backend.(PeerChanger); ok {
			c.ChangePeers(added, removed)
		} else {
			b.SetPeers(keys)
		}
	}
}

func (r *Router) peerKeysLocked() []key.Public {
	keys := make([]key.Public, 0, len(r.peers))
	for k := range r.peers {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, key.Public.Compare)
	return keys
}

// Stats returns a snapshot.
func (r *Router) Stats() Stats { return r.counters.stats() }

// Statuses returns the state of each backend, in the order in which they were added.
func (r *Router) Statuses() []Status {
	backends := r.snapshot()
	statuses := make([]Status, len(backends))
	for i, b := range backends {
		statuses[i] = b.Status()
	}
	return statuses
}

// ICEServers returns the servers that the backends know of now, without repetitions.
func (r *Router) ICEServers() []proto.ICEServer {
	var servers []proto.ICEServer
	for _, b := range r.snapshot() {
		source, ok := b.Backend.(ICEServerSource)
		if !ok {
			continue
		}
		for _, s := range source.ICEServers() {
			if !slices.Contains(servers, s) {
				servers = append(servers, s)
			}
		}
	}
	return servers
}

func (r *Router) snapshot() []*publisher {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.backends)
}

// Close ends everything: it closes the backends, gives up what is being published, and waits for the handler that may be running. It
// is idempotent; every call waits.
func (r *Router) Close() error {
	r.mu.Lock()
	first := !r.closing.Swap(true)
	r.mu.Unlock()
	if !first {
		<-r.closed
		return r.closeErr
	}
	r.cancel()
	backends := r.snapshot()
	errs := make([]error, len(backends))
	var wg sync.WaitGroup
	for i, b := range backends {
		wg.Go(func() {
			if err := b.Close(); err != nil {
				errs[i] = fmt.Errorf("close signaling backend %s: %w", b.Status().Backend, err)
			}
		})
	}
	wg.Wait()
	r.publishes.Wait()
	r.worker.Wait()
	r.closeErr = errors.Join(errs...)
	close(r.closed)
	return r.closeErr
}
