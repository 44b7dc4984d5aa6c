package session

import (
	"context"
	"slices"
	"time"

	"github.com/wice-go/wice-go/proto"
)

// handleAll is the goroutine that handles the mailbox; there is one at a time, and none while there is nothing to do.
func (s *Session) handleAll() {
	for s.ctx.Err() == nil {
		evs, ok := s.take()
		if !ok {
			return
		}
		for _, ev := range evs {
			if s.ctx.Err() != nil {
				break
			}
			s.handle(ev)
		}
		s.update()
		s.setTimer()
	}
	s.shutdown()
}

// setTimer has the machine woken when it wants to be.
func (s *Session) setTimer() {
	next := s.machine.Next()
	switch {
	case next.IsZero() && s.timer == nil:
	case next.IsZero():
		s.timer.Stop()
	case s.timer == nil:
		s.timer = time.AfterFunc(time.Until(next), func() { s.post(Tick{}) })
	default:
		s.timer.Reset(time.Until(next))
	}
}

// handle takes one thing out of the mailbox.
func (s *Session) handle(ev any) {
	switch ev := ev.(type) {
	case agentEvent:
		s.handleAgent(ev)
	case ServersChanged:
		if !slices.Equal(s.servers, s.opts.ICEServers()) {
			s.step(ev)
		}
	case Event:
		s.step(ev)
	}
}

// step gives an event to the machine and does what it wants.
func (s *Session) step(ev Event) {
	for _, a := range s.machine.Step(time.Now(), ev) {
		switch a := a.(type) {
		case SendOffer:
			s.send(a.Offer)
		case StartAgent:
			s.startAgent(a)
		case AddCandidates:
			if ag := s.agents[a.Generation]; ag != nil {
				ag.addRemote(a.Candidates)
			}
		case CloseAgent:
			s.closeAgent(a)
		case UsePath:
			if ag := s.agents[a.Generation]; ag != nil {
				s.active = ag
				s.setPath(ag.path())
			}
		case DropPath:
			s.active = nil
			s.setPath(nil)
		}
	}
}

// setPath tells what carries the data.
func (s *Session) setPath(p *Path) {
	if p == nil && s.path == nil || p != nil && s.path != nil && *p == *s.path {
		return
	}
	s.path = p
	if p != nil {
		s.log.Info("path selected", "local", p.Local.Address, "localType", p.Local.Type, "remote", p.Remote.Address,
			"remoteType", p.Remote.Type, "network", p.Network, "generation", p.Generation)
	} else {
		s.log.Info("path lost")
	}
	if s.opts.OnPath != nil {
		s.opts.OnPath(p)
	}
}

// send queues an offer. A queued one of the same session is superseded, but not version 0: it alone restarts the peer.
func (s *Session) send(o *proto.Offer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outbox = slices.DeleteFunc(s.outbox, func(q *proto.Offer) bool {
		return q.ID != o.ID || q.Version != 0 || o.Version == 0
	})
	s.outbox = append(s.outbox, o)
	if !s.sending {
		s.sending = true
		s.work.Go(s.sendQueued)
	}
}

// sendQueued empties the outbox; it lives only while there is something in it.
func (s *Session) sendQueued() {
	for {
		s.mu.Lock()
		if len(s.outbox) == 0 || s.ctx.Err() != nil {
			s.sending = false
			s.mu.Unlock()
			return
		}
		o := s.outbox[0]
		s.outbox = s.outbox[1:]
		s.mu.Unlock()

		ctx, cancel := context.WithTimeout(s.ctx, sendTimeout)
		err := s.opts.Send(ctx, o)
		cancel()
		if err != nil {
			s.log.Debug("offer not sent", "id", o.ID, "version", o.Version, "error", err)
		}
		s.mu.Lock()
		changed := (err == nil) != (s.sendErr == nil)
		s.sendErr = err
		s.mu.Unlock()
		if changed {
			s.post(Tick{}) // the reason in the status is another one
		}
	}
}

// shutdown ends all agents, each in a goroutine of its own. After it nothing is handled, and nothing added to s.work.
func (s *Session) shutdown() {
	if s.timer != nil {
		s.timer.Stop()
	}
	for _, ag := range s.agents {
		s.work.Go(ag.close)
	}
	s.mu.Lock()
	s.sending, s.rttOf = true, nil // no new goroutine
	s.mu.Unlock()
	close(s.done)
}
