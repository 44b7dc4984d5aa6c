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

// Additions returns what the file adds to WireGuard, its lines "#!wice", without what wg and wg-quick read: an interface that these set up
// takes all of that from them. The peers keep their public keys.
func (c *Config) Additions() *Config {
	i := &c.Interface
	a := &Config{File: c.File, Interface: Interface{
		Signaling: i.Signaling, ICEServers: i.ICEServers, CandidateTypes: i.CandidateTypes, NetworkTypes: i.NetworkTypes,
		Tun: i.Tun, SOCKS5: i.SOCKS5, HTTPProxy: i.HTTPProxy, Forwards: i.Forwards, Lazy: i.Lazy,
	}}
	for _, p := range c.Peers {
		a.Peers = append(a.Peers, Peer{PublicKey: p.PublicKey, Name: p.Name, ICE: p.ICE, Lazy: p.Lazy})
	}
	return a
}
