package session

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/pion/ice/v2"

	"github.com/wice-go/wice-go/proto"
)

func pionType(t proto.CandidateType) ice.CandidateType {
	switch t {
	case proto.Host:
		return ice.CandidateTypeHost
	case proto.ServerReflexive:
		return ice.CandidateTypeServerReflexive
	case proto.PeerReflexive:
		return ice.CandidateTypePeerReflexive
	case proto.Relay:
		return ice.CandidateTypeRelay
	}
	return ice.CandidateTypeUnspecified
}

func protoType(t ice.CandidateType) proto.CandidateType {
	switch t {
	case ice.CandidateTypeHost:
		return proto.Host
	case ice.CandidateTypeServerReflexive:
		return proto.ServerReflexive
	case ice.CandidateTypePeerReflexive:
		return proto.PeerReflexive
	case ice.CandidateTypeRelay:
		return proto.Relay
	case ice.CandidateTypeUnspecified:
	}
	return 0
}

func pionNetwork(t proto.NetworkType) ice.NetworkType {
	switch t {
	case proto.UDP4:
		return ice.NetworkTypeUDP4
	case proto.UDP6:
		return ice.NetworkTypeUDP6
	case proto.TCP4:
		return ice.NetworkTypeTCP4
	case proto.TCP6:
		return ice.NetworkTypeTCP6
	}
	return 0
}

func protoNetwork(t ice.NetworkType) proto.NetworkType {
	switch t {
	case ice.NetworkTypeUDP4:
		return proto.UDP4
	case ice.NetworkTypeUDP6:
		return proto.UDP6
	case ice.NetworkTypeTCP4:
		return proto.TCP4
	case ice.NetworkTypeTCP6:
		return proto.TCP6
	}
	return 0
}

func addrPort(address string, port int) netip.AddrPort {
	addr, err := netip.ParseAddr(address)
	if err != nil || port < 0 || port > 65535 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr.Unmap().WithZone(""), uint16(port))
}

func candidateAddr(c ice.Candidate) netip.AddrPort { return addrPort(c.Address(), c.Port()) }

func relatedAddr(c ice.Candidate) netip.AddrPort {
	if r := c.RelatedAddress(); r != nil {
		return addrPort(r.Address, r.Port)
	}
	return netip.AddrPort{}
}

// relayProtocol returns how a local relay candidate's server is reached; empty for other candidates.
func relayProtocol(c ice.Candidate) string {
	if rc, ok := c.(*ice.CandidateRelay); ok {
		return rc.RelayProtocol()
	}
	return ""
}

// sameCandidate reports whether an agent would treat both as one.
func sameCandidate(a, b proto.Candidate) bool {
	return a.Type == b.Type && a.Network == b.Network && a.Address == b.Address && a.TCPType == b.TCPType
}

// fromPion converts a local candidate; not ok: it is none that the options allow.
func (s *Session) fromPion(c ice.Candidate) (p proto.Candidate, ok bool) {
	p = proto.Candidate{
		Type: protoType(c.Type()), Network: protoNetwork(c.NetworkType()), Address: candidateAddr(c),
		Priority: c.Priority(), Foundation: c.Foundation(), Component: c.Component(), TCPType: proto.TCPType(c.TCPType()),
	}
	if protocol := relayProtocol(c); protocol != "" && protocol != "udp" {
		p.Priority -= 1 << 8 // one less of local preference, RFC 8445, section 5.1.2.1: the peer shall prefer our relay over UDP
	}
	if r := relatedAddr(c); r.IsValid() && !r.Addr().IsUnspecified() {
		p.RelatedAddress = r
	}
	return p, slices.Contains(s.opts.CandidateTypes, p.Type) && slices.Contains(s.networkTypes(), p.Network) &&
		p.Address.IsValid() && p.Address.Port() != 0 && s.usable(p.Address.Addr())
}

// withoutLeak leaves out the local address behind a reflexive or relay candidate if host candidates are not wanted.
func (s *Session) withoutLeak(c proto.Candidate) proto.Candidate {
	if c.Type != proto.Host && !slices.Contains(s.opts.CandidateTypes, proto.Host) {
		c.RelatedAddress = netip.AddrPort{}
	}
	return c
}

// localAllowed reports whether a UDP address of the mux may be a candidate's base.
func (s *Session) localAllowed(addr netip.Addr) bool {
	network := proto.UDP4
	if addr.Is6() {
		network = proto.UDP6
	}
	return slices.Contains(s.networkTypes(), network) && s.usable(addr)
}

// usable reports whether packets may be sent to or from the address at all.
func (s *Session) usable(addr netip.Addr) bool {
	switch {
	case !addr.IsValid(), addr.IsUnspecified(), addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return false
	case addr.Is4() && addr.As4()[0] == 0: // "this network", RFC 1122, section 3.2.1.3
		return false
	case addr.IsLoopback() && !s.opts.IncludeLoopback:
		return false
	case addr.Is6() && addr.IsLinkLocalUnicast(): // without meaning when its zone is not known
		return false
	}
	return s.opts.ExcludeAddr == nil || !s.opts.ExcludeAddr(addr)
}

// remoteAllowed reports whether a candidate of the peer may be sent to.
func (s *Session) remoteAllowed(c proto.Candidate) bool {
	return c.Component == ice.ComponentRTP && c.Address.Port() != 0 && !c.Address.Addr().Is4In6() &&
		slices.Contains(s.networkTypes(), c.Network) && c.Network.IsIPv6() == c.Address.Addr().Is6() && s.usable(c.Address.Addr())
}

// toPion converts a candidate of the peer.
func toPion(c proto.Candidate) (ice.Candidate, error) {
	network := "udp"
	if c.Network.IsTCP() {
		network = "tcp"
	}
	addr, port := c.Address.Addr().String(), int(c.Address.Port())
	switch {
	case c.Type == proto.Host:
		return ice.NewCandidateHost(&ice.CandidateHostConfig{Network: network, Address: addr, Port: port,
			Component: c.Component, Priority: c.Priority, Foundation: c.Foundation, TCPType: ice.TCPType(c.TCPType)})
	case c.Network.IsTCP():
	case c.Type == proto.ServerReflexive:
		return ice.NewCandidateServerReflexive(&ice.CandidateServerReflexiveConfig{Network: network, Address: addr, Port: port,
			Component: c.Component, Priority: c.Priority, Foundation: c.Foundation})
	case c.Type == proto.PeerReflexive:
		return ice.NewCandidatePeerReflexive(&ice.CandidatePeerReflexiveConfig{Network: network, Address: addr, Port: port,
			Component: c.Component, Priority: c.Priority, Foundation: c.Foundation})
	case c.Type == proto.Relay:
		return ice.NewCandidateRelay(&ice.CandidateRelayConfig{Network: network, Address: addr, Port: port,
			Component: c.Component, Priority: c.Priority, Foundation: c.Foundation})
	}
	return nil, fmt.Errorf("session: candidate %s %s %s: no such kind of candidate is known",
		c.Type, c.Network, addr+":"+strconv.Itoa(port))
}
