package rendezvous

import "net/netip"

// block is a range of addresses that the TURN relay does not send to.
type block struct {
	prefix  netip.Prefix
	what    string
	private bool // may be opened by AllowPrivate
}

// blocks has every range behind which something may listen that trusts its network, and every form that hides an IPv4 address in an
// IPv6 one. Sources: the IANA special-purpose address registries (RFC 6890).
var blocks = []block{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network", false},
	{netip.MustParsePrefix("10.0.0.0/8"), "private", true},
	{netip.MustParsePrefix("100.64.0.0/10"), "carrier-grade NAT", true}, // a cloud's metadata server is at 100.100.100.200
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback", false},
	{netip.MustParsePrefix("168.63.129.16/32"), "cloud metadata", false}, // public in form, but local to each machine of that cloud
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local", false},       // metadata at 169.254.169.254
	{netip.MustParsePrefix("172.16.0.0/12"), "private", true},
	{netip.MustParsePrefix("192.0.0.0/24"), "IETF protocols", false}, // metadata at 192.0.0.192
	{netip.MustParsePrefix("192.168.0.0/16"), "private", true},
	{netip.MustParsePrefix("198.18.0.0/15"), "benchmarking", true},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast", false},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved or broadcast", false},

	{netip.MustParsePrefix("::/96"), "unspecified, loopback or IPv4-compatible", false},
	{netip.MustParsePrefix("64:ff9b::/96"), "NAT64", false},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "NAT64", false},
	{netip.MustParsePrefix("100::/64"), "discard", false},
	{netip.MustParsePrefix("2001::/32"), "Teredo", false},
	{netip.MustParsePrefix("2002::/16"), "6to4", false},
	{netip.MustParsePrefix("fc00::/7"), "private (ULA)", true}, // metadata at fd00:ec2::254
	{netip.MustParsePrefix("fe80::/10"), "link-local", false},
	{netip.MustParsePrefix("fec0::/10"), "site-local", false},
	{netip.MustParsePrefix("ff00::/8"), "multicast", false},
}

// policy says to whom the TURN relay sends.
type policy struct {
	allowPrivate bool
	loopback     bool // the server itself announces a loopback address: everything is on one machine
}

// refusal returns why nothing is relayed to an address, or "".
func (p policy) refusal(a netip.Addr) string {
	if !a.IsValid() {
		return "not an address"
	}
	a = a.Unmap().WithZone("") // ::ffff:10.0.0.1 is 10.0.0.1
	if p.allowPrivate && p.loopback && a.IsLoopback() {
		return ""
	}
	for _, b := range blocks {
		if b.prefix.Contains(a) && !(b.private && p.allowPrivate) {
			return b.what
		}
	}
	return ""
}
