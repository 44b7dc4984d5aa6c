package natlab

import (
	"fmt"
	"net/netip"
	"strings"
)

// NAT is the behaviour of a gateway, in the old names; RFC 4787's are given
// as mapping / filtering.
type NAT uint8

// The kinds of NAT. Like Linux, all but Symmetric keep the port of the sender,
// unless two hosts behind the gateway send from the same port to the same
// destination: then the second gets a random one for that destination.
const (
	None              NAT = iota // no translation: the hosts have public addresses, nothing is filtered
	FullCone                     // endpoint-independent / endpoint-independent
	AddressRestricted            // endpoint-independent / address-dependent
	PortRestricted               // endpoint-independent / address- and port-dependent
	Symmetric                    // address- and port-dependent / address- and port-dependent
	UDPBlocked                   // passes TCP to port 443 and ICMP alone
)

// String returns the kind in words.
func (n NAT) String() string {
	switch n {
	case None:
		return "no NAT"
	case FullCone:
		return "full cone"
	case AddressRestricted:
		return "address restricted"
	case PortRestricted:
		return "port restricted"
	case Symmetric:
		return "symmetric"
	case UDPBlocked:
		return "UDP blocked"
	}
	return fmt.Sprintf("NAT(%d)", uint8(n))
}

// rules is what a gateway's packet filter is made from. The gateway's
// interfaces are called lan and wan.
type rules struct {
	nat       NAT
	wan       netip.Addr // IPv4 address outside
	hairpin   bool
	firewall6 bool
	shift     uint32 // 0: ports are kept; else the seed of another port for each inner address and port
}

// script returns the nft script that replaces the gateway's translation.
//
// What a full cone lets in is learnt from outgoing packets once they are
// translated, hence after the srcnat hook: there the original tuple of the
// connection names the inner side, the reply tuple the outer port. For a
// connection that came from outside it is the other way round.
func (r rules) script() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("table ip nat")
	line("delete table ip nat")
	if r.nat != None {
		line("table ip nat {")
		line("map fc { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 120s; }")
		line("set seen { type ipv4_addr . inet_service; flags dynamic,timeout; timeout 120s; }")
		r.learn(line)
		r.prerouting(line)
		r.postrouting(line)
		// Without this an early punch from outside becomes a connection of the gateway's own,
		// and the port it came to is no longer free for the host that it was meant for.
		line("chain input { type filter hook input priority filter;")
		line("iifname wan ct state established,related accept")
		line("iifname wan drop")
		line("}")
		line("chain forward { type filter hook forward priority filter;")
		r.block(line)
		line("iifname wan ct state established,related accept")
		line("iifname wan ct status dnat accept")
		line("iifname wan drop")
		line("}")
		line("}")
	}
	line("table ip6 nat")
	line("delete table ip6 nat")
	if r.firewall6 || r.nat == UDPBlocked {
		line("table ip6 nat {")
		line("chain forward { type filter hook forward priority filter;")
		r.block(line)
		if r.firewall6 {
			line("iifname wan ct state established,related accept")
			line("iifname wan drop")
		}
		line("}")
		line("}")
	}
	return b.String()
}

func (r rules) learn(line func(string, ...any)) {
	if r.nat != FullCone && r.nat != AddressRestricted && !r.hairpin {
		return
	}
	line("chain learn { type filter hook postrouting priority srcnat + 10;")
	line("oifname wan meta l4proto udp ct direction original update @fc { ct reply proto-dst : ct original ip saddr . ct original proto-src } update @seen { ip daddr . ct reply proto-dst }")
	line("oifname wan meta l4proto udp ct direction reply update @fc { ct original proto-dst : ct reply ip saddr . ct reply proto-src } update @seen { ip daddr . ct original proto-dst }")
	line("}")
}

func (r rules) prerouting(line func(string, ...any)) {
	line("chain prerouting { type nat hook prerouting priority dstnat;")
	switch r.nat {
	case FullCone:
		line("iifname wan meta l4proto udp dnat ip to udp dport map @fc")
	case AddressRestricted:
		line("iifname wan meta l4proto udp ip saddr . udp dport @seen dnat ip to udp dport map @fc")
	}
	if r.hairpin {
		line("iifname lan ip daddr %s meta l4proto udp dnat ip to udp dport map @fc", r.wan)
	}
	line("}")
}

func (r rules) postrouting(line func(string, ...any)) {
	line("chain postrouting { type nat hook postrouting priority srcnat;")
	port := "udp sport"
	if r.shift != 0 {
		// 32768..49151, read in network byte order by the kernel: any port, the same each time.
		port = fmt.Sprintf("jhash ip saddr . udp sport mod 16384 seed 0x%x offset 32768", r.shift)
	}
	switch {
	case r.nat == Symmetric:
		line("oifname wan masquerade random,fully-random")
	case r.shift != 0:
		line("oifname wan meta l4proto udp snat ip to %s:%s", r.wan, port)
		line("oifname wan masquerade")
	default:
		line("oifname wan masquerade")
	}
	if r.hairpin {
		line("oifname lan meta l4proto udp ct status dnat snat ip to %s:%s", r.wan, port)
	}
	line("}")
}

func (r rules) block(line func(string, ...any)) {
	if r.nat == UDPBlocked {
		line("iifname lan oifname wan meta l4proto udp drop")
		line("iifname lan oifname wan tcp dport != 443 drop")
	}
}

// impairments returns the nft script that sets what a gateway loses.
func impairments(loss int, blockICMP bool) string {
	var b strings.Builder
	fmt.Fprintln(&b, "table inet impair\ndelete table inet impair\ntable inet impair {")
	if loss > 0 {
		fmt.Fprintf(&b, "chain forward { type filter hook forward priority mangle;\nnumgen random mod 10000 < %d drop\n}\n", loss)
	}
	if blockICMP {
		for _, hook := range []string{"output", "forward"} {
			fmt.Fprintf(&b, "chain icmp_%s { type filter hook %s priority mangle;\n", hook, hook)
			fmt.Fprintln(&b, "icmp type destination-unreachable drop\nicmpv6 type { destination-unreachable, packet-too-big } drop\n}")
		}
	}
	fmt.Fprintln(&b, "}")
	return b.String()
}

// routerRules drops what no provider carries: private sources and destinations.
const routerRules = `table inet internet {
chain forward { type filter hook forward priority filter;
ip saddr { 10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 192.168.0.0/16 } drop
ip daddr { 10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 192.168.0.0/16 } drop
ip6 saddr fc00::/7 drop
ip6 daddr fc00::/7 drop
}
}
`
