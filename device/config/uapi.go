package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// UAPI returns the body of a "set=1" request of WireGuard's cross-platform interface that makes a device what the file says: all
// its peers are replaced. An endpoint with a host name is left out, as the interface takes addresses alone: resolving is the
// caller's. The result has secrets.
func (c *Config) UAPI() string {
	var b strings.Builder
	i := &c.Interface
	if !i.PrivateKey.IsZero() {
		fmt.Fprintf(&b, "private_key=%s\n", i.PrivateKey.Hex())
	}
	if i.ListenPort != nil {
		fmt.Fprintf(&b, "listen_port=%d\n", *i.ListenPort)
	}
	fmt.Fprintf(&b, "fwmark=%d\nreplace_peers=true\n", i.FwMark)
	for n := range c.Peers {
		c.Peers[n].writeUAPI(&b)
	}
	return b.String()
}

func (p *Peer) writeUAPI(b *strings.Builder) {
	fmt.Fprintf(b, "public_key=%s\n", p.PublicKey.Hex())
	if p.PresharedKey != nil {
		fmt.Fprintf(b, "preshared_key=%s\n", p.PresharedKey.Hex())
	}
	if ap, ok := p.EndpointAddr(); ok {
		fmt.Fprintf(b, "endpoint=%s\n", ap)
	}
	if p.PersistentKeepalive != nil {
		fmt.Fprintf(b, "persistent_keepalive_interval=%d\n", *p.PersistentKeepalive)
	}
	b.WriteString("replace_allowed_ips=true\n")
	for _, prefix := range p.AllowedIPs {
		fmt.Fprintf(b, "allowed_ip=%s\n", prefix)
	}
}

// EndpointAddr returns the peer's endpoint if it is an address, so needs no resolving.
func (p *Peer) EndpointAddr() (netip.AddrPort, bool) {
	ap, err := netip.ParseAddrPort(p.Endpoint)
	return ap, err == nil
}
