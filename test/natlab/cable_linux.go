package natlab

import "net/netip"

// planCable adds two hosts whose interfaces are the ends of one cable, 192.168.10.0/24 and site A's IPv6 LAN.
func (l *Lab) planCable(c Config) []string {
	lan := &sitePlan{lab: l, letter: "a", number: 1, family: c.Family}
	lan4 := netip.MustParsePrefix("192.168.10.0/24")
	var hosts []*Host
	for i, name := range []string{"a0", "b0"} {
		n := l.node(name)
		n.add("link set eth0 up")
		var addr4, addr6 netip.Addr
		if lan.has4() {
			own := hostIn(lan4, firstHost+i)
			addr4 = own.Addr()
			n.add("addr add %s dev eth0", own)
			n.add("route add 224.0.0.0/4 dev eth0")
		}
		if lan.has6() {
			own := hostIn(lan.lan6(), firstHost+i)
			addr6 = own.Addr()
			n.add("addr add %s dev eth0", own)
		}
		hosts = append(hosts, l.host(n, addr4, addr6))
	}
	l.A, l.B = hosts[:1], hosts[1:]
	return []string{"link add eth0 netns " + l.nodes[0].name + " type veth peer name eth0 netns " + l.nodes[1].name}
}
