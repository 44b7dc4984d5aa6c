package session

import (
	"fmt"
	"time"
)

// State is where a session stands.
type State uint8

// The states. A session goes from any to any of them.
const (
	Idle       State = iota // nothing to send was there yet, or the session sleeps
	Connecting              // the first negotiation since it was idle or connected
	Connected               // data has a path that answers
	Failed                  // a negotiation failed; the next one waits or runs
)

// String returns the name that the status command prints.
func (s State) String() string {
	switch s {
	case Idle:
		return "idle"
	case Connecting:
		return "connecting"
	case Connected:
		return "connected"
	case Failed:
		return "failed"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Status is a snapshot of a session.
type Status struct {
	State     State
	Reason    string        // why it is not connected, or not directly; in words
	Path      *Path         // nil: none
	RoundTrip time.Duration // of the path, as its last check measured; 0: not known
	Restarts  uint64        // sessions that replaced another one
	Since     time.Time     // of the state
}

// roundTripAge is how old a measured round trip may be until it is asked for anew; checks are as far apart.
const roundTripAge = time.Second

// roundTripWait is what Status waits for a measurement: an agent that is busy with a TURN server takes longer.
const roundTripWait = 20 * time.Millisecond

// roundTrip is a cached measurement.
type roundTrip struct {
	value   time.Duration
	at      time.Time
	pending bool
}

// Status returns the session's state.
func (s *Session) Status() Status {
	s.mu.Lock()
	if s.begun == nil {
		st := s.status
		s.mu.Unlock()
		if st.State == Connecting {
			st.Reason = reasonNoOffer
			if err := s.opts.Reach(); err != nil {
				st.Reason += unsent(err)
			}
		}
		return st
	}
	ag := s.rttOf
	var fresh chan struct{}
	if ag != nil && !s.rtt.pending && time.Since(s.rtt.at) > roundTripAge {
		s.rtt.pending = true
		fresh = make(chan struct{})
		s.work.Go(func() { s.measure(ag); close(fresh) })
	}
	s.mu.Unlock()
	if fresh != nil {
		timer := time.NewTimer(roundTripWait)
		select {
		case <-fresh:
		case <-timer.C:
		}
		timer.Stop()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	if st.Path != nil && s.rttOf == ag {
		st.RoundTrip = s.rtt.value
	}
	return st
}

// measure asks the agent for its round trip.
func (s *Session) measure(ag *agent) {
	stats, ok := ag.ice.GetSelectedCandidatePairStats()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rttOf != ag {
		return
	}
	s.rtt.pending, s.rtt.at = false, time.Now()
	if ok {
		s.rtt.value = time.Duration(stats.CurrentRoundTripTime * float64(time.Second))
	}
}

// update renews the snapshot.
func (s *Session) update() {
	s.mu.Lock()
	sendErr := s.sendErr
	s.mu.Unlock()
	state := s.state()
	reason := s.reason(state, sendErr)
	s.mu.Lock()
	old := s.status
	st := Status{State: state, Reason: reason, Path: s.path, Restarts: s.machine.Restarts(), Since: old.Since}
	if st.State != old.State {
		st.Since = time.Now()
	}
	if s.rttOf != s.active {
		s.rttOf, s.rtt = s.active, roundTrip{}
	}
	changed := st != old
	s.status = st
	s.mu.Unlock()
	if changed && s.opts.OnChange != nil {
		s.opts.OnChange()
	}
}

// state derives the state from the machine's.
func (s *Session) state() State {
	switch m := s.machine; {
	case m.cur == nil:
		return Idle
	case s.path != nil && !m.activeDown:
		return Connected
	case m.failures > 0:
		return Failed
	}
	return Connecting
}
