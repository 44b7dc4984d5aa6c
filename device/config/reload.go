package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/wice-go/wice-go/proto/key"
)

// Reload is what it takes to make a running interface follow its file, with no more than the differences, as "wg syncconf" does.
type Reload struct {
	Config  *Config  // what is in force afterwards
	Changes []Change // that of the interface first; none: nothing is to be done

	// Pending are the keys of [Interface] that take effect only when the interface comes up anew. Config has them as they were.
	Pending []string

	// Set is the body of a "set=1" request of WireGuard's cross-platform interface, without the port; "": nothing is to be set. It has secrets.
	Set string
}

// Change says what has become different of the interface or of one peer.
type Change struct {
	Peer  key.Public // zero: the interface
	Name  string     // of the peer, afterwards; "": it has none
	Added bool
	Gone  bool
	Keys  []string // those of the file whose values are others; none with Added and Gone
}

// String names the peer and the keys, and no value.
func (c Change) String() string {
	who := "[Interface]"
	switch {
	case c.Name != "":
		who = "peer " + c.Name
	case c.Peer != key.Public{}:
		who = "peer " + c.Peer.String()
	}
	switch {
	case c.Added:
		return who + " added"
	case c.Gone:
		return who + " removed"
	}
	return who + ": " + strings.Join(c.Keys, ", ")
}

// Has reports whether the value of a key has changed.
func (c Change) Has(name string) bool { return slices.Contains(c.Keys, name) }

// Has reports whether the value of a key of [Interface] has changed.
func (r *Reload) Has(name string) bool {
	return slices.ContainsFunc(r.Changes, func(c Change) bool { return c.Peer == key.Public{} && c.Has(name) })
}

// PlanReload compares what an interface runs with, and its state (the answer to "get=1"), with its file. What was changed by "wg set" is put
// back to what the file says, but for what only the file can say: an endpoint that has roamed, or that ICE found, counts as that of the file.
// Running and file stay as they are.
func PlanReload(running *Config, state string, file *Config) (*Reload, error) {
	live := *running
	if err := live.Update(state); err != nil {
		return nil, err
	}
	before := byKey(running)
	for n := range live.Peers {
		if p := &live.Peers[n]; before[p.PublicKey] == nil {
			p.Endpoint = "" // that of the moment
		}
	}
	r := &Reload{}
	r.merge(running, &live, file)
	var set strings.Builder
	keys := changedKeys(&live.Interface, &r.Config.Interface)
	if len(keys) > 0 {
		r.Changes = append(r.Changes, Change{Keys: keys})
	}
	if live.Interface.PrivateKey != r.Config.Interface.PrivateKey {
		fmt.Fprintf(&set, "private_key=%s\n", r.Config.Interface.PrivateKey.Hex())
	}
	r.peers(&set, &live)
	r.Set = set.String()
	return r, nil
}

// PlanAdditions is [PlanReload] for what [LoadAdditions] reads. Peers come and go without it, so Set is empty.
func PlanAdditions(running, file *Config) *Reload {
	r, live := &Reload{}, *running
	r.merge(running, &live, file)
	if keys := changedKeys(&running.Interface, &r.Config.Interface); len(keys) > 0 {
		r.Changes = append(r.Changes, Change{Keys: keys})
	}
	before, after := byKey(running), byKey(file)
	peers := slices.Clone(file.Peers)
	for _, p := range running.Peers {
		if after[p.PublicKey] == nil {
			peers = append(peers, Peer{PublicKey: p.PublicKey})
		}
	}
	for _, p := range peers {
		old := before[p.PublicKey]
		if old == nil {
			old = &Peer{}
		}
		if keys := p.writeChanges(new(strings.Builder), old); len(keys) > 0 {
			r.Changes = append(r.Changes, Change{Peer: p.PublicKey, Name: p.Name, Keys: keys})
		}
	}
	return r
}

func byKey(c *Config) map[key.Public]*Peer {
	m := make(map[key.Public]*Peer, len(c.Peers))
	for n := range c.Peers {
		m[c.Peers[n].PublicKey] = &c.Peers[n]
	}
	return m
}

// merge makes Config: what can change while the interface is up is that of the file, and the rest that of the running one. What the file
// leaves to the device is in live as it was asked for, so that it does not count as a difference.
func (r *Reload) merge(running, live, file *Config) {
	i := running.Interface
	want := &file.Interface
	if i.PrivateKey = want.PrivateKey; i.PrivateKey.IsZero() {
		i.PrivateKey = live.Interface.PrivateKey // a command has set it
	}
	if want.ListenPort == nil || *want.ListenPort == 0 {
		live.Interface.ListenPort = running.Interface.ListenPort
		if p := running.Interface.ListenPort; p == nil || *p == 0 {
			live.Interface.ListenPort = want.ListenPort
		}
	}
	i.ListenPort = want.ListenPort
	live.Interface.FwMark = running.Interface.FwMark
	if !running.hasDefaultRoute() && !file.hasDefaultRoute() { // else the rules of the routing have it too
		i.FwMark = want.FwMark
	}
	i.ICEServers, i.Lazy, i.SaveConfig = want.ICEServers, want.Lazy, want.SaveConfig
	i.SOCKS5, i.HTTPProxy, i.Forwards = want.SOCKS5, want.HTTPProxy, want.Forwards
	r.Config = &Config{Interface: i, Peers: file.Peers, File: file.File}
	r.Pending = changedKeys(&i, want)
	if want.PrivateKey.IsZero() {
		r.Pending = slices.DeleteFunc(r.Pending, func(name string) bool { return name == "PrivateKey" })
	}
}

func (c *Config) hasDefaultRoute() bool {
	return c.Interface.Table == TableAuto && slices.ContainsFunc(c.Peers, func(p Peer) bool {
		return slices.ContainsFunc(p.AllowedIPs, func(a netip.Prefix) bool { return a.Bits() == 0 })
	})
}

// changedKeys names the keys of [Interface] whose lines differ, in their order in a printed file.
func changedKeys(a, b *Interface) []string {
	before, _ := interfaceLines(a)
	after, order := interfaceLines(b)
	_, more := interfaceLines(a)
	var changed []string
	for _, name := range append(order, more...) {
		if !slices.Equal(before[name], after[name]) && !slices.Contains(changed, name) {
			changed = append(changed, name)
		}
	}
	return changed
}

// interfaceLines returns the values by key, and the keys in order.
func interfaceLines(i *Interface) (values map[string][]string, order []string) {
	var b strings.Builder
	printer{&b}.printInterface(i)
	values = make(map[string][]string)
	for line := range strings.Lines(b.String()) {
		if name, value, ok := strings.Cut(line, " = "); ok {
			name = strings.TrimPrefix(name, "#!wice ")
			values[name], order = append(values[name], value), append(order, name)
		}
	}
	return values, order
}

// peers notes what is different of the peers, and writes what WireGuard has to be told of it.
func (r *Reload) peers(set *strings.Builder, live *Config) {
	now, wanted := byKey(live), byKey(r.Config)
	for _, p := range live.Peers {
		if wanted[p.PublicKey] == nil {
			r.Changes = append(r.Changes, Change{Peer: p.PublicKey, Name: p.Name, Gone: true})
			fmt.Fprintf(set, "public_key=%s\nremove=true\n", p.PublicKey.Hex())
		}
	}
	owner := make(map[netip.Prefix]key.Public) // of one that several peers have, the last
	for _, p := range r.Config.Peers {
		for _, prefix := range p.AllowedIPs {
			owner[prefix] = p.PublicKey
		}
	}
	for _, p := range r.Config.Peers {
		p.AllowedIPs = slices.DeleteFunc(slices.Clone(p.AllowedIPs), func(prefix netip.Prefix) bool { return owner[prefix] != p.PublicKey })
		c := Change{Peer: p.PublicKey, Name: p.Name, Added: now[p.PublicKey] == nil}
		if c.Added {
			p.writeUAPI(set)
		} else if c.Keys = p.writeChanges(set, now[p.PublicKey]); len(c.Keys) == 0 {
			continue
		}
		r.Changes = append(r.Changes, c)
	}
}

// writeChanges writes what makes the peer old what p is, and returns the keys that differ.
func (p *Peer) writeChanges(b *strings.Builder, old *Peer) (keys []string) {
	var lines strings.Builder
	note := func(name string, changed bool) bool {
		if changed {
			keys = append(keys, name)
		}
		return changed
	}
	var psk, oldPSK key.Preshared
	if p.PresharedKey != nil {
		psk = *p.PresharedKey
	}
	if old.PresharedKey != nil {
		oldPSK = *old.PresharedKey
	}
	if note("PresharedKey", psk != oldPSK) {
		fmt.Fprintf(&lines, "preshared_key=%s\n", psk.Hex())
	}
	gone, added := without(old.AllowedIPs, p.AllowedIPs), without(p.AllowedIPs, old.AllowedIPs)
	note("AllowedIPs", len(gone)+len(added) > 0)
	for _, prefix := range gone {
		fmt.Fprintf(&lines, "allowed_ip=-%s\n", prefix)
	}
	for _, prefix := range added {
		fmt.Fprintf(&lines, "allowed_ip=%s\n", prefix)
	}
	if note("Endpoint", p.Endpoint != old.Endpoint) {
		if ap, ok := p.EndpointAddr(); ok {
			fmt.Fprintf(&lines, "endpoint=%s\n", ap)
		}
	}
	if note("PersistentKeepalive", p.keepalive() != old.keepalive()) {
		fmt.Fprintf(&lines, "persistent_keepalive_interval=%d\n", p.keepalive())
	}
	note("Name", p.Name != old.Name)
	note("ICE", p.ICE != old.ICE)
	note("Lazy", (p.Lazy == nil) != (old.Lazy == nil) || p.Lazy != nil && *p.Lazy != *old.Lazy)
	if lines.Len() > 0 {
		fmt.Fprintf(b, "public_key=%s\nupdate_only=true\n%s", p.PublicKey.Hex(), &lines)
	}
	return keys
}

// keepalive is the interval in seconds, 0 for none.
func (p *Peer) keepalive() uint16 {
	if p.PersistentKeepalive == nil {
		return 0
	}
	return *p.PersistentKeepalive
}

// without returns what is in a and not in b.
func without(a, b []netip.Prefix) []netip.Prefix {
	has := make(map[netip.Prefix]bool, len(b))
	for _, p := range b {
		has[p] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(p netip.Prefix) bool { return has[p] })
}
