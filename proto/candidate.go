package proto

import (
	"errors"
	"fmt"
	"net/netip"
)

// CandidateType is how a candidate was learned (RFC 8445, section 5.1.1).
type CandidateType uint8

// The candidate types. The zero value is none of them.
const (
	Host CandidateType = iota + 1
	ServerReflexive
	PeerReflexive
	Relay
)

// NetworkType is the transport protocol and address family of a candidate.
type NetworkType uint8

// The network types. The zero value is none of them.
const (
	UDP4 NetworkType = iota + 1
	UDP6
	TCP4
	TCP6
)

// TCPType is the role of a TCP candidate (RFC 6544, section 4.5); none for UDP.
type TCPType uint8

// The TCP roles.
const (
	TCPNone TCPType = iota
	TCPActive
	TCPPassive
	TCPSimultaneousOpen
)

// Candidate is one address at which a peer may be reached (RFC 8445, section 5.1).
type Candidate struct {
	Type           CandidateType
	Network        NetworkType
	Address        netip.AddrPort // never IPv4-mapped
	RelatedAddress netip.AddrPort // base of a reflexive or relay candidate; zero: none
	Priority       uint32
	Foundation     string
	Component      uint16 // 1: WireGuard needs one component alone
	TCPType        TCPType
}

var (
	candidateTypeNames = [...]string{Host: "host", ServerReflexive: "srflx", PeerReflexive: "prflx", Relay: "relay"}
	networkTypeNames   = [...]string{UDP4: "udp4", UDP6: "udp6", TCP4: "tcp4", TCP6: "tcp6"}
)

// String returns the name that SDP uses (RFC 8839, section 5.1).
func (t CandidateType) String() string {
	if t >= Host && t <= Relay {
		return candidateTypeNames[t]
	}
	return fmt.Sprintf("candidate type %d", uint8(t))
}

// ParseCandidateType reads what [CandidateType.String] prints.
func ParseCandidateType(s string) (CandidateType, error) {
	for t := Host; t <= Relay; t++ {
		if candidateTypeNames[t] == s {
			return t, nil
		}
	}
	return 0, fmt.Errorf("%q is not a candidate type: want host, srflx, prflx or relay", s)
}

// String returns udp4, udp6, tcp4 or tcp6.
func (t NetworkType) String() string {
	if t >= UDP4 && t <= TCP6 {
		return networkTypeNames[t]
	}
	return fmt.Sprintf("network type %d", uint8(t))
}

// ParseNetworkType reads what [NetworkType.String] prints.
func ParseNetworkType(s string) (NetworkType, error) {
	for t := UDP4; t <= TCP6; t++ {
		if networkTypeNames[t] == s {
			return t, nil
		}
	}
	return 0, fmt.Errorf("%q is not a network type: want udp4, udp6, tcp4 or tcp6", s)
}

// IsTCP reports whether t is one of the TCP types.
func (t NetworkType) IsTCP() bool { return t == TCP4 || t == TCP6 }

// IsIPv6 reports whether t is one of the IPv6 types.
func (t NetworkType) IsIPv6() bool { return t == UDP6 || t == TCP6 }

// Validate reports why c can't or must not be used: its fields contradict each other, or nothing may be sent to its address.
func (c *Candidate) Validate() error {
	addr := c.Address.Addr()
	switch {
	case c.Type < Host || c.Type > Relay:
		return fmt.Errorf("unknown %v", c.Type)
	case c.Network < UDP4 || c.Network > TCP6:
		return fmt.Errorf("unknown %v", c.Network)
	case !addr.IsValid():
		return errors.New("no address")
	case addr.Is4In6():
		return fmt.Errorf("%v is an IPv4-mapped address", addr)
	case addr.Is6() != c.Network.IsIPv6():
		return fmt.Errorf("%v is not an address of %v", addr, c.Network)
	case addr.Zone() != "" || c.RelatedAddress.Addr().Zone() != "":
		return fmt.Errorf("%v has a zone, which means nothing to another host", addr)
	case c.Address.Port() == 0:
		return errors.New("port 0")
	case c.Component != 1:
		return fmt.Errorf("component %d, want 1", c.Component)
	case c.TCPType > TCPSimultaneousOpen || (c.TCPType != TCPNone && !c.Network.IsTCP()):
		return fmt.Errorf("TCP role %d of a %v candidate", c.TCPType, c.Network)
	}
	if err := iceString("foundation", c.Foundation, 0, MaxFoundation); err != nil {
		return err
	}
	return destination(addr)
}

// destination refuses what no peer can be at. Private and link-local addresses are what peers in one network need, and loopback ones what
// peers on one machine do: whether these may be used is for the session to say, which by default refuses loopback; the related address is not checked, as nothing is ever sent there (RFC 8839, section 5.1 allows zeros).
func destination(addr netip.Addr) error {
	switch {
	case addr.IsMulticast():
		return fmt.Errorf("%v is a multicast address", addr)
	case addr.IsUnspecified() || addr.Is4() && addr.As4()[0] == 0: // "this network" (RFC 1122, section 3.2.1.3) reaches the host itself
		return fmt.Errorf("%v is an unspecified address", addr)
	case addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%v is the broadcast address", addr)
	}
	return nil
}
