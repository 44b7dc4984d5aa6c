package session

import (
	"net/netip"
	"slices"

	"github.com/pion/ice/v2"

	"github.com/wice-go/wice-go/proto"
)

// CandidateInfo is one end of a path.
type CandidateInfo struct {
	Type    proto.CandidateType
	Address netip.AddrPort
}

// Path is what an agent selected to carry data. It does not change.
type Path struct {
	Local, Remote CandidateInfo  // as announced to the other side
	Base          netip.AddrPort // what the local socket sends from; of a relay: the TURN socket's address, 0.0.0.0 if unknown
	Network       proto.NetworkType
	Relayed       bool   // one end at least is a relay's
	RelayProtocol string // how we reach our own TURN server: "udp", "tcp", "dtls" or "tls"; else ""

	// Direct says that the shared UDP socket can send data to Remote.Address (which may be the peer's relay).
	// Else data goes through Conn alone.
	Direct bool

	// Conn carries datagrams over the pair until the path is replaced, and a few seconds longer inwards. It must not be closed by
	// who uses it: the session does that, and its Read then returns an error.
	Conn *ice.Conn

	// Carrier is what Options.Net or Options.RelayStream made to reach the TURN server of our relay; nil without one of ours.
	Carrier any

	// Checks are how the agent signs its checks of the pair, for those who want to check more than that it works.
	Checks Checks

	// RelayIPv6 says that our own TURN server may be reached over IPv6.
	RelayIPv6 bool

	Generation uint64 // of the session: one more with each
}

// Checks are the credentials of an agent's connectivity checks (RFC 8445, section 7.1.2).
type Checks struct {
	Username    string // the peer's user fragment, a colon, and ours
	Password    string // the peer's
	Controlling bool
	Priority    uint32 // of our candidate
}

// String keeps the password out of logs.
func (c Checks) String() string { return "credentials of " + c.Username }

// path describes the selected pair.
func (ag *agent) path() *Path {
	l, r := ag.selected.local, ag.selected.remote
	p := &Path{
		Local:      CandidateInfo{protoType(l.Type()), candidateAddr(l)},
		Remote:     CandidateInfo{protoType(r.Type()), candidateAddr(r)},
		Base:       candidateAddr(l),
		Network:    protoNetwork(l.NetworkType()),
		Conn:       ag.conn,
		Carrier:    ag.net.carrier(l),
		Checks:     ag.checks,
		RelayIPv6:  ag.relayIPv6,
		Generation: ag.generation,
	}
	p.Checks.Priority = l.Priority()
	// The peer's checks may have come before its candidates. Then pion knows the address as peer-reflexive for ever.
	if i := slices.IndexFunc(ag.remotes, func(c proto.Candidate) bool { return c.Address == p.Remote.Address && c.Network == p.Network }); p.Remote.Type == proto.PeerReflexive && i >= 0 {
		p.Remote.Type = ag.remotes[i].Type
	}
	if l.Type() != ice.CandidateTypeHost {
		if rel := relatedAddr(l); rel.IsValid() {
			p.Base = rel
		}
	}
	p.RelayProtocol = relayProtocol(l)
	p.Relayed = p.Local.Type == proto.Relay || p.Remote.Type == proto.Relay
	p.Direct = p.Local.Type != proto.Relay && !p.Network.IsTCP()
	return p
}

// ownDirect reports whether we have other candidates than relays.
func (s *Session) ownDirect() bool {
	return slices.Contains(s.opts.CandidateTypes, proto.Host) || slices.Contains(s.opts.CandidateTypes, proto.ServerReflexive)
}

// directConceivable reports whether both sides have other candidates than relays.
func (s *Session) directConceivable(ag *agent) bool {
	return s.ownDirect() && slices.ContainsFunc(ag.remotes, func(c proto.Candidate) bool { return c.Type != proto.Relay })
}
