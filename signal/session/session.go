// Package session negotiates the path to one peer.
//
// It has two halves. [Machine] is the protocol without input and output: session ids, versions, restarts, what to send again and
// when. [Session] drives it: a mailbox, around one ICE agent for each generation. Messages, with
// A's session id a and B's session id b:
//
//	A                                   B
//	  --- id=a rid=-  version=0 ---->       A begins
//	  <-- id=b rid=a  version=0 -----       B answers; A starts its agent and gathers
//	  --- id=a rid=b  version=1 ---->       with A's first candidates; B starts its agent and gathers
//	  <-- id=b rid=a  version=1 -----       with B's first candidates
//	  ...                                   cumulative, until both have sent the end of candidates
//
// Whoever has the smaller public key is ICE-controlling. A restart draws new ids and makes a new agent beside the old one, which
// carries the data until the new one is connected, or until it fails itself.
package session

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v2"
	"github.com/pion/transport/v2"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
)

// Limits of a session.
const (
	maxQueuedOffers = 32               // the newest win
	closeTimeout    = time.Second      // a process must be able to end within two; see Close
	sendTimeout     = 10 * time.Second // for one offer; it is sent again anyway
)

// Options say what a session negotiates with, and whom it tells. Fields are optional unless they say otherwise.
type Options struct {
	Local, Remote key.Public // required; different

	// Send gives an offer to the signaling; required. It is called from a goroutine of its own, one call at a time.
	Send func(ctx context.Context, o *proto.Offer) error

	// Reach says why no offer can be sent at present; nil: it may be possible. It must be cheap and safe for concurrent use. Once what it
	// returned becomes nil, [Session.PeerAvailable] has to be called. Nil: always.
	Reach func() error

	// ICEServers is asked at the start of each gathering. It must be cheap and safe for concurrent use. Nil: none.
	ICEServers func() []proto.ICEServer

	CandidateTypes []proto.CandidateType // what local candidates may be; nil: everything
	NetworkTypes   []proto.NetworkType   // nil: everything

	Mux    ice.UniversalUDPMux // required: the shared UDP sockets; not closed by the session
	TCPMux ice.TCPMux          // accepts ICE-TCP connections; nil: this side only dials them
	Net    transport.Net       // makes the sockets to TURN servers; nil: the system's

	// RelayStream takes over the connections to TURN servers over TCP and TLS: what it returns is read by whole messages, and is the
	// Carrier of paths. Nil: they stay as they are.
	RelayStream func(net.Conn) net.Conn

	// ExcludeAddr reports addresses that are no candidates, neither local nor remote: the interface's own. Nil: none.
	ExcludeAddr func(netip.Addr) bool

	// IncludeLoopback permits loopback candidates, for tests and several interfaces of one machine.
	IncludeLoopback bool

	// OnPath is told what carries the data from now on; nil: nothing does. It is called in order, and must not block.
	OnPath func(*Path)

	// OnChange says that [Session.Status] changed. It must not block.
	OnChange func()

	Logger *slog.Logger // nil: nothing is logged
	Name   string       // of the peer, in the log; "": it has none
	Lazy   bool         // sleep when the peer does
	Rand   io.Reader    // ids, credentials, jitter; nil: the system's

	timeouts timeouts // tests have less time
}

// timeouts are those of an agent.
type timeouts struct{ keepalive, disconnected, failed time.Duration }

// Session is the negotiation with one peer. All methods are safe for concurrent use; none but Close blocks.
type Session struct {
	opts     Options                             // constant after New, but for Lazy: see SetLazy
	log      *slog.Logger                        // constant once the session has begun
	networks atomic.Pointer[[]proto.NetworkType] // see SetNetworkTypes; what it points to is immutable

	mu      sync.Mutex // guards the following, and some of what *begun points to
	closed  bool
	waiting bool // to begin, until the peer can be reached
	status  Status
	*begun  // constant once there is one
}

// begun is what a session has that was begun at some time.
type begun struct {
	// Immutable.
	ctx     context.Context
	stop    context.CancelFunc
	done    chan struct{} // closed when nothing is handled any more
	machine *Machine

	// Owned by the goroutine that handles the mailbox, with what the machine points to.
	timer       *time.Timer // for the machine; nil: it never wanted one
	agents      map[uint64]*agent
	active      *agent
	path        *Path
	servers     []proto.ICEServer // of the last gathering
	lastFailure string            // why the last negotiation came to nothing

	work sync.WaitGroup // all goroutines; added to only before done is closed

	// Guarded by the session's mu.
	handling bool  // there is a goroutine that handles the mailbox, or there will be none any more
	inbox    []any // Events, agentEvents
	offers   int   // how many of the inbox are offers
	outbox   []*proto.Offer
	sending  bool
	sendErr  error
	rttOf    *agent
	rtt      roundTrip
}

var (
	allCandidateTypes = []proto.CandidateType{proto.Host, proto.ServerReflexive, proto.PeerReflexive, proto.Relay}
	allNetworkTypes   = []proto.NetworkType{proto.UDP4, proto.UDP6, proto.TCP4, proto.TCP6}
)

// New makes an idle session: it begins with [Session.Start], as soon as the peer can be reached, or with an offer of the peer. Until then it has
// next to nothing, as there may be thousands of peers that are never spoken to, or not there; and it has goroutines only while something
// happens, as there may be as many that do not answer.
func New(o Options) (*Session, error) {
	switch {
	case o.Mux == nil:
		return nil, errors.New("session: options: Mux is missing")
	case o.Send == nil:
		return nil, errors.New("session: options: Send is missing")
	case o.Local == o.Remote:
		return nil, errors.New("session: options: local and remote key are the same: a peer can't be its own peer")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Reach == nil {
		o.Reach = func() error { return nil }
	}
	if o.ICEServers == nil {
		o.ICEServers = func() []proto.ICEServer { return nil }
	}
	if o.timeouts == (timeouts{}) {
		o.timeouts = timeouts{keepaliveInterval, disconnectedTimeout, failedTimeout}
	}
	if len(o.CandidateTypes) == 0 {
		o.CandidateTypes = allCandidateTypes
	}
	if !slices.ContainsFunc(o.CandidateTypes, func(t proto.CandidateType) bool { return t != proto.PeerReflexive }) {
		return nil, errors.New("session: options: CandidateTypes has prflx alone, which is not gathered but found: add host, srflx or relay")
	}
	s := &Session{opts: o, log: o.Logger, status: Status{Reason: reasonIdle, Since: time.Now()}}
	s.useNetworkTypes(o.NetworkTypes)
	return s, nil
}

// Start begins the negotiation, if the session is idle.
func (s *Session) Start() {
	if s.opts.Reach() != nil && s.wait() && s.opts.Reach() != nil { // once more, as it may have changed before there was somebody to be told
		return
	}
	s.post(Start{})
}

// wait leaves the beginning to PeerAvailable, unless the session has begun.
func (s *Session) wait() bool {
	s.mu.Lock()
	if s.begun != nil || s.closed {
		s.mu.Unlock()
		return false
	}
	changed := !s.waiting
	if changed {
		s.waiting, s.status.State, s.status.Since = true, Connecting, time.Now()
	}
	s.mu.Unlock()
	if changed && s.opts.OnChange != nil {
		s.opts.OnChange()
	}
	return true
}

// Sleep ends the session and tells the peer, because nothing uses it. It begins anew with Start or an offer.
func (s *Session) Sleep() { s.post(Sleep{}) }

// HandleOffer takes an offer of the peer. The session keeps it.
func (s *Session) HandleOffer(o *proto.Offer) { s.post(OfferReceived{o}) }

// PeerAvailable says that a backend can reach the peer now.
func (s *Session) PeerAvailable() {
	s.mu.Lock()
	waiting := s.waiting
	s.mu.Unlock()
	if waiting {
		s.post(Start{})
		return
	}
	s.post(PeerAvailable{})
}

// NetworkChanged says that local addresses or the port of the mux changed.
func (s *Session) NetworkChanged() { s.post(NetworkChanged{}) }

// ICEServersChanged says that Options.ICEServers may return others than before.
func (s *Session) ICEServersChanged() { s.post(ServersChanged{}) }

// SetLazy changes Options.Lazy. The present session stays.
func (s *Session) SetLazy(lazy bool) { s.post(LazySet{lazy}) }

// SetNetworkTypes changes Options.NetworkTypes. The present session stays if it has a path that these allow; else, unless it is idle, a new
// one begins.
func (s *Session) SetNetworkTypes(types []proto.NetworkType) {
	s.useNetworkTypes(types)
	s.mu.Lock()
	state, path := s.status.State, s.status.Path
	s.mu.Unlock()
	if state != Idle && (path == nil || !slices.Contains(s.networkTypes(), path.Network)) {
		s.NetworkChanged()
	}
}

func (s *Session) useNetworkTypes(types []proto.NetworkType) {
	if len(types) == 0 {
		types = allNetworkTypes
	}
	s.networks.Store(&types)
}

func (s *Session) networkTypes() []proto.NetworkType { return *s.networks.Load() }

// Restart begins a new session beside the present one. The reason is logged.
func (s *Session) Restart(reason string) {
	s.mu.Lock()
	log := s.log
	s.mu.Unlock()
	log.Debug("session restart asked for", "reason", reason)
	s.post(RestartRequested{})
}

// Close ends the session. No callback runs after it. It waits a second for the agents to end. One whose TURN server died in the
// middle takes some seconds longer, until pion gives up its last request; there is nothing left to be done about it.
func (s *Session) Close() error {
	s.mu.Lock()
	if s.begun != nil && !s.closed {
		s.stop()
		s.handleLocked()
	}
	s.closed = true
	s.mu.Unlock()
	if s.begun == nil {
		return nil
	}
	<-s.done
	idle := make(chan struct{})
	go func() { s.work.Wait(); close(idle) }()
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-idle:
		return nil
	case <-timer.C:
		s.log.Debug("an ICE agent ends later: it still waits for a server")
		return nil
	}
}

// post puts an event or an agentEvent into the mailbox. Offers that are not handled fast enough displace older ones, other events
// those of their kind: it is the order of the last ones that counts.
func (s *Session) post(ev any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.waiting
	if s.closed || s.begun == nil && !s.beginLocked(ev) {
		return
	}
	switch ev.(type) {
	case OfferReceived:
		if s.offers == maxQueuedOffers {
			i := slices.IndexFunc(s.inbox, func(ev any) bool { _, ok := ev.(OfferReceived); return ok })
			s.inbox = slices.Delete(s.inbox, i, i+1)
			s.offers--
		}
		s.offers++
		s.inbox = append(s.inbox, ev)
		if waiting {
			s.inbox = append(s.inbox, Start{}) // it may be an offer with which nothing begins
		}
	case agentEvent:
		s.inbox = append(s.inbox, ev) // bounded by what an agent reports
	default:
		s.inbox = append(slices.DeleteFunc(s.inbox, func(q any) bool { return q == ev }), ev)
	}
	s.handleLocked()
}

// beginLocked prepares for an event that begins a negotiation. It reports false for the others, which mean nothing to a session that is idle
// but for its laziness.
func (s *Session) beginLocked(ev any) bool {
	switch ev := ev.(type) {
	case Start, OfferReceived:
		s.waiting = false
		s.begun = &begun{machine: NewMachine(s.opts.Rand, s.opts.Lazy), agents: make(map[uint64]*agent), done: make(chan struct{})}
		s.ctx, s.stop = context.WithCancel(context.Background()) // ends in Close
		if s.opts.Name != "" {
			s.log = s.log.With("name", s.opts.Name)
		}
		s.log = s.log.With("peer", s.opts.Remote.Short())
		return true
	case LazySet:
		s.opts.Lazy = ev.Lazy
	case Sleep:
		s.waiting, s.status.State, s.status.Since = false, Idle, time.Now()
	}
	return false
}

// handleLocked has the mailbox handled.
func (s *Session) handleLocked() {
	if !s.handling {
		s.handling = true
		s.work.Go(s.handleAll)
	}
}

// take empties the mailbox. It reports false if there was nothing in it: then the caller has to end, and another one handles what comes next.
func (s *Session) take() (evs []any, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	evs, s.inbox, s.offers = s.inbox, nil, 0
	s.handling = len(evs) > 0 || s.closed
	return evs, s.handling
}
