package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
)

// keyID finds a key: its lower-case name, where it stands, and whether in a "#!wice" line.
type keyID struct {
	section section
	wice    bool
	name    string
}

// keyDef is one key of the format.
type keyDef struct {
	section  section
	wice     bool
	name     string // as documented
	repeated bool   // each line adds; otherwise the last one counts
	stripped bool   // wg(8) reads it, so white space inside the value does not count
	emptyOK  bool   // wg-quick(8) reads it, to which an empty value says nothing
	set      func(p *parser, value string) error
}

func (d keyDef) id() keyID { return keyID{d.section, d.wice, strings.ToLower(d.name)} }

func (d keyDef) label() string {
	if d.wice {
		return "#!wice " + d.name
	}
	return d.name
}

func keyDefs() []keyDef {
	hook := func(name string, list func(*Interface) *[]string) keyDef {
		return keyDef{section: sectionInterface, name: name, repeated: true, emptyOK: true, set: func(p *parser, v string) error {
			if l := list(&p.config.Interface); v != "" {
				*l = append(*l, v)
			}
			return nil
		}}
	}
	return []keyDef{
		// wg(8)
		{section: sectionInterface, name: "PrivateKey", stripped: true, set: (*parser).setPrivateKey},
		{section: sectionInterface, name: "ListenPort", stripped: true, set: (*parser).setListenPort},
		{section: sectionInterface, name: "FwMark", stripped: true, set: (*parser).setFwMark},
		{section: sectionPeer, name: "PublicKey", stripped: true, set: (*parser).setPublicKey},
		{section: sectionPeer, name: "PresharedKey", stripped: true, set: (*parser).setPresharedKey},
		{section: sectionPeer, name: "AllowedIPs", stripped: true, repeated: true, set: (*parser).addAllowedIPs},
		{section: sectionPeer, name: "Endpoint", stripped: true, set: (*parser).setEndpoint},
		{section: sectionPeer, name: "PersistentKeepalive", stripped: true, set: (*parser).setKeepalive},
		// wg-quick(8)
		{section: sectionInterface, name: "Address", repeated: true, emptyOK: true, set: (*parser).addAddresses},
		{section: sectionInterface, name: "DNS", repeated: true, emptyOK: true, set: (*parser).addDNS},
		{section: sectionInterface, name: "MTU", emptyOK: true, set: (*parser).setMTU},
		{section: sectionInterface, name: "Table", emptyOK: true, set: (*parser).setTable},
		hook("PreUp", func(i *Interface) *[]string { return &i.PreUp }),
		hook("PostUp", func(i *Interface) *[]string { return &i.PostUp }),
		hook("PreDown", func(i *Interface) *[]string { return &i.PreDown }),
		hook("PostDown", func(i *Interface) *[]string { return &i.PostDown }),
		{section: sectionInterface, name: "SaveConfig", set: setTo(ParseBool, func(p *parser) *bool { return &p.config.Interface.SaveConfig })},
		// #!wice
		{section: sectionInterface, wice: true, name: "Signaling", repeated: true, set: (*parser).addSignaling},
		{section: sectionInterface, wice: true, name: "ICEServer", repeated: true, set: (*parser).addICEServer},
		{section: sectionInterface, wice: true, name: "CandidateTypes", set: setTo(ParseCandidateTypes, func(p *parser) *[]proto.CandidateType { return &p.config.Interface.CandidateTypes })},
		{section: sectionInterface, wice: true, name: "NetworkTypes", set: setTo(ParseNetworkTypes, func(p *parser) *[]proto.NetworkType { return &p.config.Interface.NetworkTypes })},
		{section: sectionInterface, wice: true, name: "Tun", set: setTo(ParseTun, func(p *parser) *TunMode { return &p.config.Interface.Tun })},
		{section: sectionInterface, wice: true, name: "SOCKS5", set: setTo(ParseProxy, func(p *parser) *Proxy { return &p.config.Interface.SOCKS5 })},
		{section: sectionInterface, wice: true, name: "HTTPProxy", set: setTo(ParseProxy, func(p *parser) *Proxy { return &p.config.Interface.HTTPProxy })},
		{section: sectionInterface, wice: true, name: "Forward", repeated: true, set: (*parser).addForward},
		{section: sectionInterface, wice: true, name: "Lazy", set: setTo(ParseBool, func(p *parser) *bool { return &p.config.Interface.Lazy })},
		{section: sectionPeer, wice: true, name: "Name", set: (*parser).setName},
		{section: sectionPeer, wice: true, name: "ICE", set: setTo(ParseICEMode, func(p *parser) *ICEMode { return &p.peer.ICE })},
		{section: sectionPeer, wice: true, name: "Lazy", set: (*parser).setPeerLazy},
	}
}

// keyTable indexes the keys.
func keyTable() map[keyID]keyDef {
	table := make(map[keyID]keyDef)
	for _, d := range keyDefs() {
		table[d.id()] = d
	}
	return table
}

// setTo makes a setter of a function that parses and the place where the result belongs.
func setTo[T any](parse func(string) (T, error), place func(*parser) *T) func(*parser, string) error {
	return func(p *parser, s string) error {
		v, err := parse(s)
		if err == nil {
			*place(p) = v
		}
		return err
	}
}

// unknownKey says what was probably meant: the key in its right place, or the one spelled nearly so.
func (p *parser) unknownKey(id keyID) error {
	for _, d := range keyDefs() {
		if d.id().name != id.name {
			continue
		}
		switch {
		case d.section == id.section && d.wice:
			return fmt.Errorf("%s is no key of WireGuard: write \"#!wice %s = ...\", which wg and wg-quick take for a comment", d.name, d.name)
		case d.section == id.section:
			return fmt.Errorf("%s is a key of WireGuard: write it without \"#!wice\"", d.name)
		}
	}
	for _, d := range keyDefs() {
		if d.id().name == id.name {
			return fmt.Errorf("%s belongs under %v, not under %v", d.label(), d.section, id.section)
		}
	}
	written := keyShaped.ReplaceAllString(shorten(p.name, 60), "(hidden)")
	best, bestDistance := keyDef{}, 3
	var known []string
	for _, d := range keyDefs() {
		if d.section == id.section && d.wice == id.wice {
			known = append(known, d.name)
		}
		if n := distance(id.name, strings.ToLower(d.name)); n < bestDistance && n < len(d.name)/2+1 {
			best, bestDistance = d, n
		}
	}
	if best.name != "" {
		return fmt.Errorf("unknown key %q under %v: did you mean %s (under %v)?", written, id.section, best.label(), best.section)
	}
	return fmt.Errorf("unknown key %q under %v: want one of %s", written, id.section, strings.Join(known, ", "))
}

// distance is the number of insertions, deletions, substitutions and swaps of neighbours between two short strings, or a large
// number if they differ much in length.
func distance(a, b string) int {
	if len(a) > len(b)+3 || len(b) > len(a)+3 {
		return max(len(a), len(b))
	}
	before, last, row := []int(nil), make([]int, len(b)+1), []int(nil)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row = make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

func (p *parser) setPrivateKey(v string) error {
	k, err := key.ParsePrivate(v)
	p.badKeyAt = err != nil
	p.config.Interface.PrivateKey = k
	return err
}

func (p *parser) setListenPort(v string) error {
	n, err := parsePort(v)
	p.config.Interface.ListenPort = &n
	return err
}

func (p *parser) setFwMark(v string) (err error) {
	p.config.Interface.FwMark, err = ParseFwMark(v)
	return err
}

func (p *parser) setPublicKey(v string) error {
	k, err := key.ParsePublic(v)
	if err != nil {
		return err
	}
	if before, again := p.byKey[k]; again {
		return fmt.Errorf("the peer %s is on line %d already: give all that belongs to it in one [Peer] section", k.Short(), before)
	}
	p.byKey[k] = p.line
	p.peer.PublicKey = k
	return nil
}

func (p *parser) setPresharedKey(v string) error {
	k, err := key.ParsePreshared(v)
	if err != nil {
		return errors.New("not a preshared key: want 44 characters of base64, as printed by \"wice-go genpsk\"")
	}
	p.peer.PresharedKey = &k
	if k.IsZero() {
		p.peer.PresharedKey = nil
	}
	return nil
}

// addAllowedIPs reads the list. Newer versions of wg(8) have + and - before an entry, for changes to what a peer has: here + says
// nothing, and - takes an entry of the same section back.
func (p *parser) addAllowedIPs(v string) error {
	for item := range strings.SplitSeq(v, ",") {
		item, plus := strings.CutPrefix(item, "+")
		minus := false
		if !plus {
			item, minus = strings.CutPrefix(item, "-")
		}
		prefix, err := parsePrefix(item, false)
		if err != nil {
			return err
		}
		if masked := prefix.Masked(); masked != prefix {
			p.warn("the allowed IP %v has bits beyond its prefix length: it is taken as %v, as in WireGuard", prefix, masked)
			prefix = masked
		}
		_, known := p.allowed[prefix]
		switch {
		case minus && known:
			delete(p.allowed, prefix)
			p.peer.AllowedIPs = slices.DeleteFunc(p.peer.AllowedIPs, func(q netip.Prefix) bool { return q == prefix })
		case !minus && !known:
			p.allowed[prefix] = p.line
			p.peer.AllowedIPs = append(p.peer.AllowedIPs, prefix)
		}
	}
	return nil
}

func (p *parser) setEndpoint(v string) (err error) {
	p.peer.Endpoint, err = ParseEndpoint(v)
	return err
}

func (p *parser) setKeepalive(v string) error {
	var n uint64
	var err error
	if !strings.EqualFold(v, "off") {
		if n, err = parseDigits(v, 65535); err != nil {
			return fmt.Errorf("%q: want off or a number of seconds from 0 to 65535", shorten(v, 40))
		}
	}
	seconds := uint16(n)
	p.peer.PersistentKeepalive = &seconds
	return nil
}

// listItems takes a list of wg-quick(8) apart, whose entries commas or spaces separate.
func listItems(v string) []string { return strings.Fields(strings.ReplaceAll(v, ",", " ")) }

func (p *parser) addAddresses(v string) error {
	list := &p.config.Interface.Addresses
	for _, item := range listItems(v) {
		prefix, err := parsePrefix(item, true)
		if err != nil {
			return err
		}
		if a := prefix.Addr(); a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("%v can't be the address of an interface: want for example 10.0.0.1/24", a)
		}
		if !slices.Contains(*list, prefix) {
			*list = append(*list, prefix)
		}
	}
	return nil
}

func (p *parser) addDNS(v string) error {
	i := &p.config.Interface
	for _, item := range listItems(v) {
		if !strings.Contains(item, ":") && strings.Trim(item, "0123456789.") != "" {
			if err := checkHost(item); err != nil {
				return fmt.Errorf("%q is neither an IP address nor a search domain: %w", shorten(item, 60), err)
			}
			i.SearchDomains = append(i.SearchDomains, item)
			continue
		}
		addr, err := netip.ParseAddr(item)
		if err != nil {
			return fmt.Errorf("%q is not the IP address of a DNS server", shorten(item, 60))
		}
		i.DNS = append(i.DNS, addr.Unmap())
	}
	return nil
}

func (p *parser) setMTU(v string) error {
	// The least that IPv4 needs is 68 (RFC 791); wg-quick leaves the check to the kernel.
	if v == "" {
		p.config.Interface.MTU = 0
		return nil
	}
	n, err := parseDigits(v, 65535)
	if err != nil || n < 68 {
		return fmt.Errorf("%q is not an MTU: want a number of bytes from 68 to 65535, such as 1420", shorten(v, 40))
	}
	if n < 1280 {
		p.warn("an MTU below 1280 leaves no IPv6 in the tunnel (RFC 8200, section 5)")
	}
	p.config.Interface.MTU = int(n)
	return nil
}

func (p *parser) setTable(v string) (err error) {
	p.config.Interface.Table, err = ParseTable(v)
	return err
}

func (p *parser) addSignaling(v string) error {
	s, err := ParseSignaling(v)
	s.Line = p.line
	p.config.Interface.Signaling = append(p.config.Interface.Signaling, s)
	return err
}

func (p *parser) addICEServer(v string) error {
	s, err := ParseICEServer(v)
	p.config.Interface.ICEServers = append(p.config.Interface.ICEServers, s)
	return err
}

func (p *parser) addForward(v string) error {
	f, err := ParseForward(v)
	if err != nil {
		return err
	}
	listen, _, _ := strings.Cut(f.String(), " -> ")
	if before, again := p.byListen[listen]; again {
		return fmt.Errorf("the forward on line %d listens on %s already", before, listen)
	}
	p.byListen[listen] = p.line
	p.config.Interface.Forwards = append(p.config.Interface.Forwards, f)
	return nil
}

func (p *parser) setName(v string) (err error) {
	if p.peer.Name, err = ParseName(v); err != nil {
		return err
	}
	if before, again := p.byName[p.peer.Name]; again {
		return fmt.Errorf("the peer on line %d has the name %q already", before, p.peer.Name)
	}
	p.byName[p.peer.Name] = p.line
	return nil
}

func (p *parser) setPeerLazy(v string) error {
	b, err := ParseBool(v)
	p.peer.Lazy = &b
	return err
}
