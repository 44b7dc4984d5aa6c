package session

import (
	"slices"
	"time"

	"github.com/wice-go/wice-go/proto"
)

// receive takes an offer of the peer, and compares where both sides stand.
func (m *Machine) receive(now time.Time, o *proto.Offer) {
	m.place(now, o)
	switch n := m.cur; {
	case n == nil, n.remote == nil, slices.Contains(o.Features, featureIdle):
	case o.ID == n.remote.ID && o.RID == n.id:
		m.doubtAt = time.Time{}
	case o.ID == n.remote.ID && (!n.bound || len(o.Candidates) == 0 && !o.EOC):
		// The peer has not seen our id yet. Once it has candidates it is bound, and not to us if not to our id.
	case !m.Connected() && m.doubtAt.IsZero() && m.deferred == nil:
		m.doubtAt = now.Add(m.jitter(doubtAfter))
	}
}

// place does what an offer asks for.
func (m *Machine) place(now time.Time, o *proto.Offer) {
	idle := slices.Contains(o.Features, featureIdle)
	if m.cur == nil {
		if idle || m.wasReplaced(o.ID) {
			return
		}
		m.begin(now, false)
		m.accept(now, o)
		return
	}
	n := m.cur
	answers := o.RID == n.id
	switch {
	case n.remote != nil && o.ID == n.remote.ID:
		if o.Version <= n.remote.Version {
			m.poke(now)
			return
		}
		if idle && m.lazy {
			m.sleep(now, false)
			return
		}
		m.accept(now, o)
	case m.wasReplaced(o.ID) && (n.bound || !answers):
	case idle:
	case !n.bound && (answers || !n.answered || o.Version == 0):
		m.accept(now, o)
	case !n.bound:
	case answers || o.Version == 0:
		m.peerRestart(now, o)
	default:
		m.poke(now) // the peer is in a session that we don't know; our offer shows it where we are
	}
}

// accept takes an offer as the peer's newest one.
func (m *Machine) accept(now time.Time, o *proto.Offer) {
	n := m.cur
	other := n.remote == nil || n.remote.ID != o.ID
	if other {
		n.answered, m.startAt = false, time.Time{}
		n.remoteUfrag, n.remotePwd = "", ""
	}
	if n.remoteUfrag == "" { // an offer without candidates may lack them
		n.remoteUfrag, n.remotePwd = o.Ufrag, o.Pwd
	}
	n.remote = o
	n.answered = n.answered || o.RID == n.id
	switch {
	case n.failed:
		m.restart(now)
		return
	case n.bound:
		m.do(AddCandidates{n.generation, o.Candidates})
		return
	}
	switch {
	case n.answered && n.remoteUfrag != "" && (n.began || len(o.Candidates) > 0 || o.EOC):
		m.bind(now)
		if other {
			m.flushSoon(now)
		}
		return
	case n.answered && n.remoteUfrag != "" && m.startAt.IsZero():
		m.startAt = now.Add(startWait)
	}
	if other {
		m.publish(now)
	}
}

// bind starts the agent: from now on the id belongs to this id of the peer.
func (m *Machine) bind(now time.Time) {
	n := m.cur
	n.bound = true
	m.startAt = time.Time{}
	m.do(StartAgent{
		Generation: n.generation,
		LocalUfrag: n.ufrag, LocalPwd: n.pwd,
		RemoteUfrag: n.remoteUfrag, RemotePwd: n.remotePwd,
	})
	if len(n.remote.Candidates) > 0 {
		m.do(AddCandidates{n.generation, n.remote.Candidates})
	}
}

// peerRestart answers a new session of the peer with one of our own, as often as the budget allows. Of restarts that must wait
// the newest counts.
func (m *Machine) peerRestart(now time.Time, o *proto.Offer) {
	if m.peerBudget.Before(now) {
		m.peerBudget = now
	}
	if wait := m.peerBudget.Sub(now) - (peerRestarts-1)*peerRestartCost; wait > 0 {
		m.deferred, m.deferredAt = o, now.Add(wait)
		return
	}
	m.peerBudget = m.peerBudget.Add(peerRestartCost)
	m.begin(now, false)
	m.accept(now, o)
}

// offer composes the offer as it stands.
func (m *Machine) offer() *proto.Offer {
	n := m.cur
	o := &proto.Offer{
		ID: n.id, Version: n.version,
		Candidates: slices.Clone(n.candidates), EOC: n.eoc,
		Ufrag: n.ufrag, Pwd: n.pwd,
		ProtocolVersion: protocolVersion,
	}
	if n.remote != nil {
		o.RID = n.remote.ID
	}
	return o
}

// publish sends what is new.
func (m *Machine) publish(now time.Time) {
	m.cur.changed = true
	m.resendDelay = 0
	m.send(now)
}

// send sends the offer, as a new version if there is something new in it, and sets the time for the next time.
func (m *Machine) send(now time.Time) {
	n := m.cur
	if n.changed && n.published {
		n.version++
	}
	n.changed, n.published = false, true
	m.flushAt = time.Time{}
	m.do(SendOffer{m.offer()})
	m.lastSent = now
	m.resendDelay = min(max(2*m.resendDelay, resendFirst), resendMax)
	m.resendAt = now.Add(min(m.jitter(m.resendDelay), resendMax))
}

// flushSoon sends what is new in a moment, together with what comes until then.
func (m *Machine) flushSoon(now time.Time) {
	m.cur.changed = true
	if m.flushAt.IsZero() {
		m.flushAt = now.Add(coalesce)
	}
}

// poke sends the offer again to a peer that is there but seems not to have it, not waiting for the back-off. What failed here is not
// worth it: a new session is.
func (m *Machine) poke(now time.Time) {
	switch {
	case m.cur.failed:
		m.restart(now)
	case now.Sub(m.lastSent) >= pokeInterval:
		m.send(now)
	}
}

// resending reports whether the offer is to be sent again and again.
func (m *Machine) resending() bool {
	n := m.cur
	return n != nil && !n.connected && !n.failed
}

// gathered adds local candidates to the offer.
func (m *Machine) gathered(now time.Time, ev CandidatesGathered) {
	n := m.cur
	if n == nil || n.generation != ev.Generation {
		return
	}
	changed := ev.EOC && !n.eoc
	for _, c := range ev.Candidates {
		if len(n.candidates) < maxLocalCandidates && !slices.Contains(n.candidates, c) {
			n.candidates = append(n.candidates, c)
			changed = true
		}
	}
	n.eoc = n.eoc || ev.EOC
	if changed {
		m.flushSoon(now)
	}
}
