package device

import (
	"net/netip"
	"strings"

	"github.com/wice-go/wice-go/device/control"
)

// overlayMap is what is behind the tunnel. It is immutable.
type overlayMap struct {
	prefixes map[netip.Prefix]bool
	lengths  map[int]bool            // of the prefixes
	names    map[string][]netip.Addr // single addresses of peers, by the name in lower case
}

// mapOverlay notes the allowed IPs of WireGuard's table. Of two peers whose names differ in case alone the first one has the name.
func (d *Device) mapOverlay(state *wgState) {
	m := &overlayMap{prefixes: make(map[netip.Prefix]bool), lengths: make(map[int]bool), names: make(map[string][]netip.Addr)}
	for i := range state.peers {
		var single []netip.Addr
		for _, prefix := range state.peers[i].allowedIPs {
			m.prefixes[prefix.Masked()] = true
			m.lengths[prefix.Bits()] = true
			if prefix.IsSingleIP() {
				single = append(single, prefix.Addr())
			}
		}
		if name := strings.ToLower(d.meta[state.peers[i].publicKey].Name); name != "" && m.names[name] == nil {
			m.names[name] = single
		}
	}
	d.behind.Store(m)
}

// PeerAddresses returns the single addresses among the allowed IPs of the peer with that name, in whatever case.
func (d *Device) PeerAddresses(name string) []netip.Addr {
	if m := d.behind.Load(); m != nil {
		return m.names[strings.ToLower(name)]
	}
	return nil
}

// Routed reports whether a peer has the address among its allowed IPs.
func (d *Device) Routed(a netip.Addr) bool {
	m := d.behind.Load()
	if m == nil {
		return false
	}
	a = a.Unmap().WithZone("")
	for bits := range m.lengths {
		if prefix, err := a.Prefix(bits); err == nil && m.prefixes[prefix] {
			return true
		}
	}
	return false
}

// Reason says which peer has the address and what keeps it from being reached, "" where it is connected.
func (d *Device) Reason(a netip.Addr) string {
	s, err := d.Status(d.ctx)
	if err != nil {
		return ""
	}
	p := routeTo(s, a)
	if p == nil || p.State == control.StateConnected {
		return ""
	}
	who := p.Name
	if who == "" {
		who = p.PublicKey
	}
	return strings.TrimSuffix(who+": "+string(p.State)+": "+p.Reason, ": ")
}
