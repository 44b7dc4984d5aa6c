package session

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/wice-go/wice-go/proto"
)

const (
	reasonIdle    = "idle: nothing to send yet"
	reasonNoOffer = "no offer from the peer yet"
)

func unsent(err error) string { return "; ours can't be sent: " + cause(err) }

// NATHinter is what a mux implements too if it knows whether the NAT in front of it is symmetric: whether it maps the same socket to
// another port for each destination (RFC 4787, section 4.1: other than endpoint-independent mapping).
type NATHinter interface {
	// NATHints is safe for concurrent use. Known is false as long as fewer than two STUN servers answered.
	NATHints() (symmetric, known bool)
}

// reason says in words why the session is not connected, or not directly: what is known, and no more.
func (s *Session) reason(state State, sendErr error) string {
	m := s.machine
	switch state {
	case Idle:
		return reasonIdle
	case Connected:
		return s.pathReason()
	case Connecting, Failed:
	}
	n := m.cur
	prefix := ""
	if s.path != nil {
		prefix = fmt.Sprintf("%s does not answer any more; ", s.path.Remote.Address)
	}
	switch ag := s.agents[n.generation]; {
	case n.remote == nil && sendErr != nil:
		return prefix + reasonNoOffer + unsent(sendErr)
	case n.remote == nil:
		return prefix + reasonNoOffer
	case !n.bound && sendErr != nil:
		return prefix + "the peer does not answer our offer yet, which can't be sent: " + cause(sendErr)
	case !n.bound:
		return prefix + "the peer has not answered our offer yet"
	case ag == nil || n.failed:
		return prefix + s.lastFailure
	case len(ag.remotes) == 0:
		return prefix + "no candidates from the peer yet"
	case len(ag.locals) == 0 && ag.gathered:
		return prefix + "no candidates of our own: " + s.noCandidates()
	case m.failures > 0:
		return prefix + s.lastFailure
	default:
		return prefix + "checking " + ag.sides()
	}
}

// failure says why the agent's checks came to nothing.
func (s *Session) failure(ag *agent) string {
	switch {
	case ag.conn != nil:
		return fmt.Sprintf("%s stopped answering", candidateAddr(ag.selected.remote))
	case ag.ice == nil:
		return "the ICE agent could not be made"
	case len(ag.remotes) == 0 && ag.refused > 0:
		return "the peer's candidates are all of a kind that is not permitted here"
	case len(ag.remotes) == 0:
		return "the peer sent no candidates"
	case len(ag.locals) == 0:
		return "no candidates of our own: " + s.noCandidates()
	}
	r := "no pair of candidates worked (" + ag.sides() + ")"
	if nat := s.nat(ag); nat != "" {
		r += ": " + nat
	}
	if !hasType(ag.locals, proto.Relay) && !hasType(ag.remotes, proto.Relay) {
		r += "; neither side has a relay"
	}
	return r
}

// noCandidates says what gathering lacked.
func (s *Session) noCandidates() string {
	if !slices.Contains(s.opts.CandidateTypes, proto.Host) && len(s.servers) == 0 {
		return "no STUN or TURN server is configured or offered, and CandidateTypes leaves out host"
	}
	return "no usable address, and no STUN or TURN server answered"
}

// pathReason says why the path is not direct; empty: it is.
func (s *Session) pathReason() string {
	p, ag := s.path, s.active
	if !p.Relayed {
		if p.Network.IsTCP() {
			return "UDP did not work: direct over TCP"
		}
		return ""
	}
	over := "relayed"
	if p.RelayProtocol != "" && p.RelayProtocol != "udp" {
		over = "relayed over " + strings.ToUpper(p.RelayProtocol)
		if !slices.ContainsFunc(ag.locals, func(c proto.Candidate) bool { return c.Type == proto.ServerReflexive }) &&
			slices.Contains(s.opts.CandidateTypes, proto.ServerReflexive) {
			return "UDP blocked: " + over
		}
	}
	switch {
	case !s.ownDirect():
		return over + ": CandidateTypes permits relays alone"
	case len(ag.remotes) > 0 && !slices.ContainsFunc(ag.remotes, func(c proto.Candidate) bool { return c.Type != proto.Relay }):
		return over + ": the peer has relay candidates alone"
	}
	if nat := s.nat(ag); nat != "" {
		return over + ": " + nat
	}
	return over + ": no direct pair worked (" + ag.sides() + ")"
}

// nat says what is known of the NATs in between.
func (s *Session) nat(ag *agent) string {
	local, _ := symmetric(ag.locals)
	if h, ok := s.opts.Mux.(NATHinter); ok {
		if sym, known := h.NATHints(); known {
			local = sym
		}
	}
	remote, _ := symmetric(ag.remotes)
	if !remote && hasType(ag.remotes, proto.ServerReflexive) {
		remote = slices.ContainsFunc(ag.prflx, func(a netip.AddrPort) bool {
			return slices.ContainsFunc(ag.remotes, func(c proto.Candidate) bool {
				return c.Type == proto.ServerReflexive && c.Address.Addr() == a.Addr() && c.Address.Port() != a.Port()
			})
		})
	}
	switch {
	case local && remote:
		return "symmetric NAT on both sides"
	case local:
		return "symmetric NAT on this side"
	case remote:
		return "symmetric NAT on the peer's side"
	case slices.Contains(s.opts.CandidateTypes, proto.ServerReflexive) && !hasType(ag.locals, proto.ServerReflexive):
		if len(s.servers) == 0 {
			return "no STUN server is configured or offered"
		}
		return "no STUN server answered"
	}
	return ""
}

// symmetric reports whether one base is seen from outside with several ports; not known with fewer than two reflexive candidates
// of a base.
func symmetric(cands []proto.Candidate) (yes, known bool) {
	for i, a := range cands {
		if a.Type != proto.ServerReflexive || !a.RelatedAddress.IsValid() {
			continue
		}
		for _, b := range cands[i+1:] {
			if b.Type == a.Type && b.RelatedAddress == a.RelatedAddress && b.Address.Addr() == a.Address.Addr() {
				known = true
				yes = yes || b.Address.Port() != a.Address.Port()
			}
		}
	}
	return yes, known
}

func hasType(cands []proto.Candidate, t proto.CandidateType) bool {
	return slices.ContainsFunc(cands, func(c proto.Candidate) bool { return c.Type == t })
}

// sides names the kinds of candidates of both sides.
func (ag *agent) sides() string {
	return "here " + kinds(ag.locals) + "; peer " + kinds(ag.remotes)
}

func kinds(cands []proto.Candidate) string {
	var names []string
	for _, c := range cands {
		name := c.Type.String()
		if c.Network.IsTCP() {
			name += "/tcp"
		}
		if c.Network.IsIPv6() {
			name += "/v6"
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	slices.Sort(names)
	return strings.Join(names, ",")
}

// cause returns the text of the error at the bottom: what it is wrapped in names the layers and the peer, which a reader of a status knows.
func cause(err error) string {
	for {
		var next error
		switch u := err.(type) {
		case interface{ Unwrap() error }:
			next = u.Unwrap()
		case interface{ Unwrap() []error }:
			if all := u.Unwrap(); len(all) == 1 {
				next = all[0]
			}
		}
		switch {
		case next == context.DeadlineExceeded:
			return "no answer in time"
		case next == nil:
			return err.Error()
		}
		err = next
	}
}
