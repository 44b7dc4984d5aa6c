package session

import "time"

// Next returns when the machine wants its next [Tick]; zero: not before something else happens.
func (m *Machine) Next() (next time.Time) {
	for _, t := range []time.Time{m.flushAt, m.resendAt, m.startAt, m.restartAt, m.deferredAt, m.relayAt, m.doubtAt} {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next
}

// due reports whether the timer has run out, and turns it off.
func due(now time.Time, t *time.Time) bool {
	if t.IsZero() || now.Before(*t) {
		return false
	}
	*t = time.Time{}
	return true
}

// tick does what is due.
func (m *Machine) tick(now time.Time) {
	if m.cur == nil {
		return
	}
	if due(now, &m.startAt) {
		m.bind(now)
	}
	if due(now, &m.flushAt) {
		m.publish(now)
	}
	if !m.resending() {
		m.resendAt = time.Time{}
	} else if due(now, &m.resendAt) {
		m.send(now)
	}
	if due(now, &m.deferredAt) {
		o := m.deferred
		m.deferred = nil
		m.receive(now, o)
	}
	if due(now, &m.doubtAt) && !m.Connected() {
		m.begin(now, true)
		m.publish(now)
	}
	if due(now, &m.restartAt) || due(now, &m.relayAt) {
		m.restart(now)
	}
}

func (m *Machine) agentConnected(now time.Time, ev AgentConnected) {
	if ev.Generation == m.active {
		m.activeDown = false
	}
	n := m.cur
	if n == nil || n.generation != ev.Generation || n.failed {
		return
	}
	if n.connected { // it answers again: what was to be restarted because of it need not be
		n.disconnected = false
		m.restartAt = time.Time{}
		return
	}
	n.connected, n.connectedAt, n.relayed = true, now, ev.Relayed
	m.failures = 0
	m.resendAt = time.Time{}
	m.do(UsePath{n.generation})
	if m.active != 0 {
		m.do(CloseAgent{Generation: m.active, Grace: closeGrace})
	}
	m.active, m.activeDown = n.generation, false
	m.relayAt = time.Time{}
	if !ev.Improvable {
		m.relayDelay = 0
		return
	}
	m.relayDelay = min(max(2*m.relayDelay, relayRetryFirst), relayRetryMax)
	m.relayAt = now.Add(m.jitter(m.relayDelay))
}

func (m *Machine) agentDisconnected(now time.Time, generation uint64) {
	if generation == m.active {
		m.activeDown = true
	}
	switch n := m.cur; {
	case n == nil:
	case n.generation == generation && n.connected && !n.disconnected:
		n.disconnected = true
		m.restart(now)
	case generation == m.active && n.failed: // what was to be better failed, and now the old one does
		m.restart(now)
	}
}

func (m *Machine) agentFailed(now time.Time, generation uint64) {
	n := m.cur
	if generation == m.active {
		m.active = 0
		m.do(DropPath{})
		m.do(CloseAgent{Generation: generation})
		if n == nil || n.generation != generation {
			if n != nil && n.failed {
				m.restart(now)
			}
			return
		}
	} else {
		if n == nil || n.generation != generation || !n.bound || n.failed {
			return
		}
		m.do(CloseAgent{Generation: generation})
	}
	n.failed = true
	m.failures++
	m.flushAt = time.Time{}
	if m.active != 0 && !m.activeDown && n.began && m.relayDelay > 0 {
		// A try to leave the relay came to nothing: the relay carries on, and the next try has its time.
		m.relayDelay = min(2*m.relayDelay, relayRetryMax)
		m.relayAt = now.Add(m.jitter(m.relayDelay))
		return
	}
	m.restart(now)
}
