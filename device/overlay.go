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

// PeerAddresses returns the single addresses among the allowed IPs of the peer with that name, in whatever case. Of several whose names differ
// in case alone, it is the first in the file that WireGuard has.
func (d *Device) PeerAddresses(name string) []netip.Addr {
	for _, pk := range d.file.Load().names[strings.ToLower(name)] {
		if single, ok := d.table.addresses(pk); ok {
			return single
		}
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
	if found := d.table.routes.find(a.Unmap().WithZone("")); found != nil {
		return found.owner.key, true
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
