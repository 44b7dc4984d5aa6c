package device

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/session"
)

// PeerError says which peer is in the way of a connection, and why.
type PeerError struct {
	Peer   string // name, or the beginning of the key
	State  control.PeerState
	Reason string // why it is in that state; "": not known
}

// Error names the peer, its state and the reason.
func (e *PeerError) Error() string {
	text := fmt.Sprintf("peer %s is %s", e.Peer, e.State)
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// overlayMap is what is behind the tunnel. It is immutable.
type overlayMap struct {
	prefixes map[netip.Prefix]key.Public
	lengths  []int                   // of the prefixes, the longest first
	names    map[string][]netip.Addr // single addresses of peers, by the name in lower case
}

// mapOverlay notes the allowed IPs of WireGuard's table. Of two peers whose names differ in case alone the first one has the name.
func (d *Device) mapOverlay(state *wgState) {
	m := &overlayMap{prefixes: make(map[netip.Prefix]key.Public, len(state.peers)), names: make(map[string][]netip.Addr)}
	for i := range state.peers {
		name := strings.ToLower(d.peerConfig(state.peers[i].publicKey).Name)
		named := name != "" && m.names[name] == nil
		var single []netip.Addr
		for _, prefix := range state.peers[i].allowedIPs {
			m.prefixes[prefix.Masked()] = state.peers[i].publicKey
			if !slices.Contains(m.lengths, prefix.Bits()) {
				m.lengths = append(m.lengths, prefix.Bits())
			}
			if named && prefix.IsSingleIP() {
				single = append(single, prefix.Addr())
			}
		}
		if named {
			m.names[name] = single
		}
	}
	slices.Sort(m.lengths)
	slices.Reverse(m.lengths)
	d.behind.Store(m)
}

// PeerAddresses returns the single addresses among the allowed IPs of the peer with that name, in whatever case.
func (d *Device) PeerAddresses(name string) []netip.Addr {
	if m := d.behind.Load(); m != nil {
		return slices.Clone(m.names[strings.ToLower(name)])
	}
	return nil
}

// Routed reports whether a peer has the address among its allowed IPs.
func (d *Device) Routed(a netip.Addr) bool {
	_, ok := d.routeTo(a)
	return ok
}

// routeTo returns the peer that WireGuard sends packets for the address to: that of the longest prefix.
func (d *Device) routeTo(a netip.Addr) (key.Public, bool) {
	m := d.behind.Load()
	if m == nil {
		return key.Public{}, false
	}
	a = a.Unmap().WithZone("")
	for _, bits := range m.lengths {
		if prefix, err := a.Prefix(bits); err == nil {
			if pk, ok := m.prefixes[prefix]; ok {
				return pk, true
			}
		}
	}
	return key.Public{}, false
}

// Reason says which peer has the address and what keeps it from being reached, "" where it is reached. It is lasting unless the first
// packets to the peer may change it: those to a lazy peer, or to an ordinary one of WireGuard, whose state only a handshake tells.
// The reason is a [*PeerError].
func (d *Device) Reason(a netip.Addr) (why error, lasting bool) {
	pk, ok := d.routeTo(a)
	if !ok {
		return nil, false
	}
	if p := d.lookup(pk); p != nil {
		if ice := p.session.Status(); ice.Path != nil && ice.State == session.Connected {
			return nil, false
		}
	}
	s, err := d.Status(d.ctx)
	if err != nil {
		return nil, false
	}
	i := slices.IndexFunc(s.Peers, func(p control.PeerStatus) bool { return p.PublicKey == pk.String() })
	if i < 0 {
		return nil, false
	}
	p := &s.Peers[i]
	plain := p.State == control.StatePlain
	if p.State == control.StateConnected || plain && time.Since(p.LastHandshake) < answeredWithin {
		return nil, false
	}
	return &PeerError{Peer: p.DisplayName(), State: p.State, Reason: p.Reason}, !d.isLazy(pk) && (!plain || p.Path == nil)
}
