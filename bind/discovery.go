package bind

import (
	"slices"
	"sync"
	"time"

	"github.com/wice-go/wice-go/bind/pmtu"
)

// Discovery says how [PeerEndpoint.Discover] finds the MTU of a path.
type Discovery struct {
	// Credentials are those of the pair that ICE selected; required.
	Credentials Credentials
	// Full is the size in bytes of WireGuard's largest datagrams; required.
	Full int
	// Found is told of the first result, and then of each that differs from the one before: the largest datagram that comes through
	// in bytes of UDP payload, which is Full if that does, and the MTU of a path that is just large enough for it. Both are 0 where
	// nothing can be found out. Required. It is called from a goroutine of its own, one call at a time; the last one may end after
	// the path was replaced.
	Found func(size, mtu int)
}

// probeRoute carries the probes of a path.
type probeRoute interface {
	// bound returns the size of the largest datagram that leaves this host in one piece, as far as it knows. An error means that
	// nothing can be found out.
	bound() (int, error)

	// probe sends a datagram of that size and calls answered when it has come through: from any goroutine, perhaps before it
	// returns, at most once.
	probe(size int, answered func()) error

	// overhead returns the length of the headers in front of a datagram.
	overhead() int
}

// discovery drives a [pmtu.Machine] with a route and the clock. It has a goroutine only while it probes or rests, that is for some
// seconds after WireGuard has sent something large:
//
//	start -> run: Step, probes, answers ... -> watching: the goroutine ends -> look sees a large datagram -> run
type discovery struct {
	// immutable
	Discovery
	endpoint *PeerEndpoint
	route    probeRoute
	closed   chan struct{}
	answers  chan pmtu.Probe

	// owned by the goroutine, and by the next one after it
	machine  *pmtu.Machine
	reported int

	mu      sync.Mutex // guards the following
	stopped bool
}

// maxAnswers is how many answers may wait: those of two attempts.
const maxAnswers = 16

// Discover finds out how large the datagrams may be that the current path carries, until another path is set. It does nothing for a path that
// is neither direct nor through a relay of ours over UDP.
func (e *PeerEndpoint) Discover(o Discovery) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.path.Load()
	if p == nil || e.removed || o.Full <= pmtu.Base {
		return
	}
	if socket, ok := p.carrier.(*TURNSocket); ok {
		e.discoverLocked(o, &relayRoute{socket: socket, bind: e.bind, path: p, by: o.Credentials})
	} else if p.kind == pathDirect {
		e.discoverLocked(o, &checkRoute{mux: e.bind.mux, path: p, by: o.Credentials})
	}
}

// discoverLocked begins the discovery over a route.
func (e *PeerEndpoint) discoverLocked(o Discovery, r probeRoute) {
	e.stopDiscoveryLocked()
	e.discovery = &discovery{
		Discovery: o, endpoint: e, route: r, reported: -1,
		closed: make(chan struct{}), answers: make(chan pmtu.Probe, maxAnswers),
		machine: pmtu.New(o.Full, r.overhead()),
	}
	e.discovery.resume(pmtu.Start{})
}

// stopDiscoveryLocked ends the discovery on a path that is replaced.
func (e *PeerEndpoint) stopDiscoveryLocked() {
	d := e.discovery
	if d == nil {
		return
	}
	d.mu.Lock()
	d.stopped = true
	close(d.closed)
	d.mu.Unlock()
	e.discovery = nil
	e.watch.CompareAndSwap(d, nil)
}

// look is called with what is sent while the machine watches. It wakes it up for a large datagram, once.
func (d *discovery) look(bufs [][]byte) {
	for _, b := range bufs {
		if len(b) > pmtu.Base {
			if d.endpoint.watch.CompareAndSwap(d, nil) {
				d.resume(pmtu.Large{})
			}
			return
		}
	}
}

// resume starts the goroutine.
func (d *discovery) resume(ev pmtu.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.stopped {
		d.endpoint.bind.discoveries.Go(func() { d.run(ev) })
	}
}

// run drives the machine until it watches.
func (d *discovery) run(ev pmtu.Event) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if !d.step(ev) {
			d.report(0)
			return
		}
		if d.machine.Watching() {
			break
		}
		timer.Reset(time.Until(d.machine.Next()))
		select {
		case <-d.closed:
			return
		case p := <-d.answers:
			ev = pmtu.Answered{Probe: p}
		case <-timer.C:
			ev = pmtu.Tick{}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.stopped {
		d.endpoint.watch.Store(d)
	}
}

// step gives an event to the machine, sends what it wants, and reports what it found. It returns false where nothing can be found.
func (d *discovery) step(ev pmtu.Event) bool {
	probes := d.machine.Step(time.Now(), ev)
	if !d.machine.Searching() {
		d.report(d.machine.Size())
	}
	if len(probes) == 0 {
		return true
	}
	bound, err := d.route.bound()
	if err != nil {
		return false
	}
	// Each longer than the one before: nobody on the way joins such (segmentation offload, GRO), and loses the small ones with the large.
	slices.SortFunc(probes, func(a, b pmtu.Probe) int { return a.Size - b.Size })
	for _, p := range probes {
		if p.Size > bound {
			// The probes that this may ask for come in addition: they belong to the next round.
			if !d.step(pmtu.TooBig{Probe: p}) {
				return false
			}
			continue
		}
		// What waits for the answer refers to nothing of the peer, since it may do so for long after the peer is gone. An answer for which
		// the goroutine has no time, or does not wait any more, is lost.
		answers := d.answers
		answered := func() {
			select {
			case answers <- p:
			default:
			}
		}
		// An error is a loss: the network is away, say, or the bind is closed for a moment.
		_ = d.route.probe(p.Size, answered)
	}
	return true
}

// report tells what was found, if it is new.
func (d *discovery) report(size int) {
	if size == d.reported {
		return
	}
	d.reported = size
	switch {
	case size == 0:
		d.Found(0, 0)
	case !d.machine.Limited():
		d.Found(d.Full, d.Full+d.route.overhead())
	default:
		d.Found(size, size+d.route.overhead())
	}
}
