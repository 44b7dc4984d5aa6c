package config

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// String prints the configuration as a file, secrets included, that [Parse] reads to the same Config.
func (c *Config) String() string {
	var b strings.Builder
	w := printer{&b}
	w.printInterface(&c.Interface)
	for n := range c.Peers {
		w.printPeer(&c.Peers[n])
	}
	return b.String()
}

// WriteTo writes what [Config.String] returns. It implements [io.WriterTo].
func (c *Config) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, c.String())
	return int64(n), err
}

// Interface and peer sections are printed in the order of the documentation.
type printer struct{ b *strings.Builder }

func (p printer) set(name, value string) {
	if value != "" {
		fmt.Fprintf(p.b, "%s = %s\n", name, value)
	}
}

func (p printer) each(name string, values []string) {
	for _, v := range values {
		p.set(name, v)
	}
}

func (p printer) printInterface(i *Interface) {
	p.b.WriteString("[Interface]\n")
	if !i.PrivateKey.IsZero() {
		p.set("PrivateKey", i.PrivateKey.Base64())
	}
	if i.ListenPort != nil {
		p.set("ListenPort", strconv.Itoa(int(*i.ListenPort)))
	}
	if i.FwMark != 0 {
		p.set("FwMark", fmt.Sprintf("0x%x", i.FwMark))
	}
	p.set("Address", joined(i.Addresses))
	p.set("DNS", strings.Join(append(texts(i.DNS), i.SearchDomains...), ", "))
	if i.MTU != 0 {
		p.set("MTU", strconv.Itoa(i.MTU))
	}
	if i.Table != TableAuto {
		p.set("Table", i.Table.String())
	}
	p.each("PreUp", i.PreUp)
	p.each("PostUp", i.PostUp)
	p.each("PreDown", i.PreDown)
	p.each("PostDown", i.PostDown)
	if i.SaveConfig {
		p.set("SaveConfig", "true")
	}
	p.each("#!wice Signaling", texts(i.Signaling))
	for _, s := range i.ICEServers {
		p.set("#!wice ICEServer", s.URI())
	}
	p.set("#!wice CandidateTypes", strings.Join(texts(i.CandidateTypes), ","))
	p.set("#!wice NetworkTypes", strings.Join(texts(i.NetworkTypes), ","))
	if i.Tun != TunAuto {
		p.set("#!wice Tun", i.Tun.String())
	}
	p.set("#!wice SOCKS5", i.SOCKS5.text())
	p.set("#!wice HTTPProxy", i.HTTPProxy.text())
	p.each("#!wice Forward", texts(i.Forwards))
	if i.Lazy {
		p.set("#!wice Lazy", "true")
	}
}

func (p printer) printPeer(peer *Peer) {
	p.b.WriteString("\n[Peer]\n")
	p.set("#!wice Name", peer.Name)
	p.set("PublicKey", peer.PublicKey.String())
	if peer.PresharedKey != nil {
		p.set("PresharedKey", peer.PresharedKey.Base64())
	}
	p.set("AllowedIPs", joined(peer.AllowedIPs))
	p.set("Endpoint", peer.Endpoint)
	if peer.PersistentKeepalive != nil {
		p.set("PersistentKeepalive", strconv.Itoa(int(*peer.PersistentKeepalive)))
	}
	if peer.ICE != ICEAuto {
		p.set("#!wice ICE", peer.ICE.String())
	}
	if peer.Lazy != nil {
		p.set("#!wice Lazy", strconv.FormatBool(*peer.Lazy))
	}
}

func texts[T fmt.Stringer](list []T) []string {
	out := make([]string, len(list))
	for n, v := range list {
		out[n] = v.String()
	}
	return out
}

func joined[T fmt.Stringer](list []T) string { return strings.Join(texts(list), ", ") }
