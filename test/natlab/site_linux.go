package natlab

import (
	"fmt"
	"net/netip"
)

// firstHost is the last byte of a site's first host's addresses.
const firstHost = 10

// sitePlan collects what one site needs before anything is made.
type sitePlan struct {
	Site
	lab    *Lab
	letter string // a or b
	number int    // 1 or 2: part of every public address
	family Family

	bridge *Gateway // the one whose LAN the hosts are on
	hosts  []*Host
	links  []string
}

func (s *sitePlan) has4() bool { return s.family != IPv6 && !s.NoIPv4 }
func (s *sitePlan) has6() bool { return s.family != IPv4 && !s.NoIPv6 }

// plan adds the site behind router; with nil the LAN alone.
func (s *sitePlan) plan(router *node) error {
	if s.Outer != None && s.NAT == None {
		return fmt.Errorf("site %s: an outer NAT (%v) needs a NAT at the site", s.letter, s.Outer)
	}
	if !s.LAN.IsValid() {
		s.LAN = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(10 * s.number), 0}), 24)
		if s.NAT == None && router != nil {
			s.LAN = netip.PrefixFrom(netip.AddrFrom4([4]byte{5, 1, byte(100 + s.number), 0}), 24)
		}
	}
	if !s.LAN.Addr().Is4() || s.LAN.Bits() > 24 {
		return fmt.Errorf("site %s: LAN %v is not an IPv4 prefix of /24 or shorter", s.letter, s.LAN)
	}
	s.LAN = s.LAN.Masked()
	n := s.lab.node("gw" + s.letter)
	s.bridge = &Gateway{lab: s.lab, node: n, forwards: true, loss: s.Loss, has4: s.has4(),
		rules: rules{nat: s.NAT, hairpin: s.Hairpin, firewall6: s.Firewall6}}
	if router == nil {
		s.bridge.rules = rules{}
	}
	n.add("link add lan type bridge mcast_snooping 0")
	n.add("link set lan up")
	if router != nil {
		s.uplinks(router)
		if s.has4() {
			n.add("addr add %s dev lan", hostIn(s.LAN, 1))
		}
		if s.has6() {
			n.add("addr add %s dev lan", hostIn(s.lan6(), 1))
		}
	}
	for i := range max(s.Hosts, 1) {
		s.planHost(i, router != nil)
	}
	return nil
}

// lan6, middle6 and transit6 are the IPv6 prefixes of the LAN, of the segment
// between two gateways, and of that to the router.
func (s *sitePlan) lan6() netip.Prefix     { return s.prefix6(2) }
func (s *sitePlan) middle6() netip.Prefix  { return s.prefix6(1) }
func (s *sitePlan) transit6() netip.Prefix { return s.prefix6(0) }

func (s *sitePlan) prefix6(segment byte) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0x2a, 1: 0x0e, 3: byte(s.number), 5: segment}), 64)
}

// uplinks connects the gateway with the router, through the outer gateway if there is one.
func (s *sitePlan) uplinks(router *node) {
	public := netip.PrefixFrom(netip.AddrFrom4([4]byte{5, 1, byte(s.number), 0}), 24)
	outside := s.bridge
	if s.Outer != None {
		n := s.lab.node("out" + s.letter)
		n.add("link set lan up")
		outside = &Gateway{lab: s.lab, node: n, forwards: true, has4: s.has4(), rules: rules{nat: s.Outer}}
		s.bridge.Outer = outside
		// The shared address space of RFC 6598.
		middle := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, byte(s.number), 0}), 24)
		s.cable(s.bridge, n, "lan", middle, s.middle6())
		if s.has6() {
			n.add("route add %s via %s", s.lan6(), s.middle6().Addr().Next().Next())
		}
	}
	port := "site" + s.letter
	router.add("link set %s up", port)
	s.cable(outside, router, port, public, s.transit6())
	if s.has4() && s.NAT == None {
		router.add("route add %s via %s", s.LAN, outside.rules.wan)
	}
	if s.has6() {
		next := s.transit6().Addr().Next().Next()
		router.add("route add %s via %s", s.lan6(), next)
		router.add("route add %s via %s", s.middle6(), next)
	}
}

// cable connects a gateway's wan with a port of what is above it, which has
// the first address of each segment.
func (s *sitePlan) cable(g *Gateway, up *node, port string, seg4, seg6 netip.Prefix) {
	s.links = append(s.links, fmt.Sprintf("link add wan netns %s type veth peer name %s netns %s", g.node.name, port, up.name))
	g.up, g.port, g.segment = up, port, seg4
	g.node.add("link set wan up")
	if s.has4() {
		g.rules.wan = hostIn(seg4, 2).Addr()
		up.add("addr add %s dev %s", hostIn(seg4, 1), port)
		g.node.add("addr add %s dev wan", hostIn(seg4, 2))
		g.node.add("route add default via %s", hostIn(seg4, 1).Addr())
	}
	if s.has6() {
		up.add("addr add %s dev %s", hostIn(seg6, 1), port)
		g.node.add("addr add %s dev wan", hostIn(seg6, 2))
		g.node.add("route add default via %s", hostIn(seg6, 1).Addr())
	}
}

func (s *sitePlan) planHost(i int, routed bool) {
	n := s.lab.node(fmt.Sprintf("%s%d", s.letter, i))
	port := fmt.Sprintf("p%d", i)
	s.links = append(s.links, fmt.Sprintf("link add %s netns %s type veth peer name eth0 netns %s", port, s.bridge.node.name, n.name))
	s.bridge.node.add("link set %s master lan up", port)
	n.add("link set eth0 up")
	var addr4, addr6 netip.Addr
	if s.has4() {
		own := hostIn(s.LAN, firstHost+i)
		addr4 = own.Addr()
		n.add("addr add %s dev eth0", own)
		n.add("route add 224.0.0.0/4 dev eth0")
		if routed {
			n.add("route add default via %s", hostIn(s.LAN, 1).Addr())
		}
	}
	if s.has6() {
		own := hostIn(s.lan6(), firstHost+i)
		addr6 = own.Addr()
		n.add("addr add %s dev eth0", own)
		if routed {
			n.add("route add default via %s", hostIn(s.lan6(), 1).Addr())
		}
	}
	h := s.lab.host(n, addr4, addr6)
	h.site, h.port, h.lan4, h.lan6 = s.bridge, port, s.LAN, s.lan6()
	s.hosts = append(s.hosts, h)
}

// hostIn returns the address with that last byte, and the length of the prefix.
func hostIn(p netip.Prefix, last int) netip.Prefix {
	b := p.Addr().AsSlice()
	b[len(b)-1] = byte(last)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.Bits())
}
