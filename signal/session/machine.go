package session

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/wice-go/wice-go/proto"
)

// The life of one session id of ours, the negotiation. A restart draws the next id; nothing goes back.
//
//	        Start, or an offer while idle
//	                 |
//	                 v        an offer of any id that was not replaced:
//	  +---------> unbound <-+ accept it, tell the peer in rid
//	  |              |   +--+
//	  |              | an offer of the accepted id whose rid is our id, and:
//	  |              | we began, or it has candidates, or startWait is over
//	  |              v
//	  |            bound ----------- agent failed ----------+
//	  |              | agent connected                      |
//	  |              v                                      |
//	  |          connected --- disconnected, failed, -------+
//	  |              |         network or servers changed,  |
//	  |              |         relayed for long             |
//	  |              |                                      | begin, paced
//	  |              | version 0 of another id that does    |
//	  |              | not answer ours, or any that does    |
//	  |              v                                      |
//	  +--------------+<-------------------------------------+
//	     next id     answer, paced
//
// What makes both sides converge:
//
//   - An id is bound (the agent runs with the peer's credentials) only once the peer has proved that it knows the id. Until
//     then it can be paired with any id of the peer: crossing starts and crossing restarts need no further id, so that two
//     sides can't restart each other for ever.
//   - Once bound, an id is never paired with another one.
//   - What is not connected is sent again until it is. So a side that is not connected learns soon if the peer is in another
//     session, whatever old offers misled one of them: then it begins a new id with version 0, to which the peer always answers.
//
// Rule 1 of the protocol says that an offer that answers our id never restarts us. There is one exception, without which both
// sides would wait for their agents to fail: the id that it answers is bound to another id of the peer. That happens when
// the peer lost its memory and met an old offer of ours first.

// Timing of the machine. Durations get a jitter of a fifth both ways, so that two sides do not stay in step.
const (
	resendFirst     = 250 * time.Millisecond // protocol rule 4
	resendMax       = time.Minute            // protocol rule 4: while the peer stays away
	coalesce        = 20 * time.Millisecond  // candidates that come this close together share an offer
	startWait       = time.Second            // how long the answering side waits for the first candidates
	pokeInterval    = time.Second            // between offers sent only because the peer seems to have missed the last one
	doubtAfter      = 2 * time.Second        // how long the peer may stay in another session than we
	restartFirst    = time.Second            // between restarts of our own, doubling ...
	restartMax      = time.Minute            // ... up to this
	stableAfter     = 10 * time.Second       // a connection of this age was a good one: the next restart is not held back
	peerRestartCost = 3 * time.Second        // a peer may restart us this often in the long run ...
	peerRestarts    = 10                     // ... and so many times in a row
	relayRetryFirst = 30 * time.Second       // from a relayed connection to the next try for a direct one, doubling ...
	relayRetryMax   = 15 * time.Minute       // ... up to this, for ever
	closeGrace      = 3 * time.Second        // a replaced agent still receives what the peer sent before it switched
)

// maxReplaced bounds the memory of ids that the peer replaced. Older ones are kept out by the envelopes' timestamps.
const maxReplaced = 64

// maxLocalCandidates is what a peer accepts in one offer; hosts with more addresses than that announce the first.
const maxLocalCandidates = 30

// featureIdle in an offer says that its sender ends the session because nothing uses it.
const featureIdle = "idle"

// protocolVersion is what we announce. There is one version so far.
const protocolVersion = 1

// negotiation is one session id of ours with all that belongs to it.
type negotiation struct {
	generation uint64
	id         proto.SessionID
	ufrag, pwd string
	began      bool // we began it; else it answers the peer

	published  bool // version 0 was sent
	changed    bool // since the last version
	version    uint32
	candidates []proto.Candidate
	eoc        bool

	remote                 *proto.Offer // the newest one accepted; nil: none
	answered               bool         // the peer has told our id in its rid
	bound                  bool         // the agent was started
	connected              bool         // at some time
	failed                 bool
	connectedAt            time.Time
	disconnected           bool // the pair does not answer now
	relayed                bool
	remoteUfrag, remotePwd string // the first that the remote id came with
}

// timers of the current negotiation; zero: off.
type timers struct {
	flushAt, resendAt, startAt, restartAt, deferredAt, relayAt time.Time

	doubtAt time.Time // both sides are in different sessions: a new one begins then, unless they have found each other
}

// Machine is the negotiation of one peer without its input and output: it takes events and returns what to do. It reads no
// clock and starts no goroutine; it is not safe for concurrent use.
type Machine struct {
	rand io.Reader
	lazy bool

	cur        *negotiation // nil: idle
	active     uint64       // generation of the agent that carries data; 0: none
	activeDown bool         // that agent's pair does not answer now
	generation uint64       // the last one given away
	replaced   []proto.SessionID

	restarts uint64
	failures uint64 // negotiations that failed since the last connection

	timers
	resendDelay  time.Duration
	lastSent     time.Time
	restartDelay time.Duration
	restartNext  time.Time // no restart of our own before
	relayDelay   time.Duration
	peerBudget   time.Time    // when the peer's restarts will have been paid for
	deferred     *proto.Offer // a restart by the peer that came too early

	actions []Action
}

// NewMachine returns an idle machine. All randomness (ids, credentials, jitter) is read from rand, which must not fail. A lazy machine
// goes to sleep when its peer does.
func NewMachine(rand io.Reader, lazy bool) *Machine {
	return &Machine{rand: rand, lazy: lazy}
}

// Step takes one event and returns what is to be done about it.
func (m *Machine) Step(now time.Time, ev Event) []Action {
	m.actions = nil
	switch ev := ev.(type) {
	case Tick:
	case Start:
		if m.cur == nil {
			m.begin(now, true)
			m.publish(now)
		}
	case Sleep:
		m.sleep(now, true)
	case OfferReceived:
		m.receive(now, ev.Offer)
	case PeerAvailable:
		switch {
		case m.resending():
			m.resendDelay = 0
			m.send(now)
		case m.cur != nil && m.cur.failed:
			m.tryAgain(now)
		}
	case NetworkChanged:
		m.relayDelay = 0
		m.tryAgain(now)
	case ServersChanged:
		if m.cur != nil && (!m.cur.connected || m.cur.relayed || m.cur.disconnected) {
			m.restart(now)
		}
	case LazySet:
		m.lazy = ev.Lazy
	case RestartRequested:
		m.restart(now)
	case CandidatesGathered:
		m.gathered(now, ev)
	case AgentConnected:
		m.agentConnected(now, ev)
	case AgentDisconnected:
		m.agentDisconnected(now, ev.Generation)
	case AgentFailed:
		m.agentFailed(now, ev.Generation)
	default:
		panic(fmt.Sprintf("session: unknown event %T", ev))
	}
	m.tick(now)
	return m.actions
}

// Generation returns the generation of the current negotiation; 0 while idle.
func (m *Machine) Generation() uint64 {
	if m.cur == nil {
		return 0
	}
	return m.cur.generation
}

// IDs returns the current session ids of both sides; zero: none.
func (m *Machine) IDs() (local, remote proto.SessionID) {
	if m.cur == nil {
		return
	}
	if m.cur.remote != nil {
		remote = m.cur.remote.ID
	}
	return m.cur.id, remote
}

// Connected reports whether the current negotiation (not an older one that still carries data) is connected.
func (m *Machine) Connected() bool {
	return m.cur != nil && m.cur.connected && !m.cur.disconnected && !m.cur.failed
}

// Restarts counts the sessions that replaced another one.
func (m *Machine) Restarts() uint64 { return m.restarts }

func (m *Machine) do(a Action) { m.actions = append(m.actions, a) }

// begin draws the next id. The agent of the one before ends, unless it carries data.
func (m *Machine) begin(now time.Time, began bool) {
	if old := m.cur; old != nil {
		m.restarts++
		m.remember(old)
		if old.bound && !old.failed && old.generation != m.active {
			m.do(CloseAgent{Generation: old.generation})
		}
	}
	m.generation++
	n := &negotiation{generation: m.generation, began: began, ufrag: m.text(9), pwd: m.text(24)}
	m.read(n.id[:])
	m.cur = n
	m.timers, m.deferred = timers{}, nil
}

// restart begins a new session of our own, later if the last one was a moment ago. An id that is not bound yet is as good as new.
func (m *Machine) restart(now time.Time) {
	n := m.cur
	switch {
	case n == nil:
		return
	case !n.bound:
		m.resendDelay = 0
		if now.Sub(m.lastSent) >= resendFirst {
			m.send(now)
		}
		return
	}
	if n.connected && now.Sub(n.connectedAt) >= stableAfter && !now.Before(m.restartNext) {
		m.restartDelay = 0
	}
	if now.Before(m.restartNext) {
		m.restartAt = m.restartNext
		return
	}
	m.restartDelay = min(max(2*m.restartDelay, restartFirst), restartMax)
	m.restartNext = now.Add(m.jitter(m.restartDelay))
	m.begin(now, true)
	m.publish(now)
}

// tryAgain restarts because something is different from before. What failed by now need not wait any longer.
func (m *Machine) tryAgain(now time.Time) {
	if first := now.Add(restartFirst); m.cur != nil && m.cur.failed && m.restartNext.After(first) {
		m.restartNext, m.restartDelay = first, 0
	}
	m.restart(now)
}

// sleep makes the machine idle.
func (m *Machine) sleep(now time.Time, tell bool) {
	n := m.cur
	if n == nil {
		return
	}
	if tell && n.remote != nil {
		o := m.offer()
		o.Version++
		o.Features = append(o.Features, featureIdle)
		m.do(SendOffer{o})
	}
	m.remember(n)
	if n.bound && !n.failed && n.generation != m.active {
		m.do(CloseAgent{Generation: n.generation})
	}
	if m.active != 0 {
		m.do(DropPath{})
		m.do(CloseAgent{Generation: m.active})
	}
	*m = Machine{
		rand: m.rand, lazy: m.lazy, generation: m.generation, replaced: m.replaced, restarts: m.restarts,
		restartDelay: m.restartDelay, restartNext: m.restartNext, peerBudget: m.peerBudget, actions: m.actions,
	}
}

// remember notes that the peer's id of n is over. One that n was never bound to may be alive: an old offer may only have displaced it.
func (m *Machine) remember(n *negotiation) {
	if !n.bound || m.wasReplaced(n.remote.ID) {
		return
	}
	if len(m.replaced) == maxReplaced {
		m.replaced = slices.Delete(m.replaced, 0, 1)
	}
	m.replaced = append(m.replaced, n.remote.ID)
}

func (m *Machine) wasReplaced(id proto.SessionID) bool { return slices.Contains(m.replaced, id) }

func (m *Machine) read(b []byte) {
	if _, err := io.ReadFull(m.rand, b); err != nil {
		panic("session: no randomness: " + err.Error()) // going on would give away the credentials
	}
}

// text draws n bytes as ice-chars (RFC 8839, section 5.4: letters, digits, + and /).
func (m *Machine) text(n int) string {
	b := make([]byte, n)
	m.read(b)
	return base64.RawStdEncoding.EncodeToString(b)
}

func (m *Machine) jitter(d time.Duration) time.Duration {
	var b [4]byte
	m.read(b[:])
	return d - d/5 + time.Duration(uint64(2*d/5)*uint64(binary.LittleEndian.Uint32(b[:]))>>32)
}
