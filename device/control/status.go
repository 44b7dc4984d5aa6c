package control

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/wice-go/wice-go/proto/key"
)

// Version is the version of the schema of [Status]: fields may be added to it, never renamed or removed.
const Version = 1

// Status is the state of an interface: what "status --json" prints.
type Status struct {
	Version    int               `json:"version"` // set to [Version] when it is encoded
	Interface  string            `json:"interface"`
	PublicKey  string            `json:"publicKey"` // base64; "" while the interface has no key
	ListenPort uint16            `json:"listenPort"`
	Tun        string            `json:"tun"` // "kernel" or "netstack"
	Signaling  []SignalingStatus `json:"signaling"`
	Peers      []PeerStatus      `json:"peers"`
	Commands   int               `json:"commands,omitempty"` // of "wice-go exec", that use the tunnel now
}

// SignalingStatus is the state of one signaling backend.
type SignalingStatus struct {
	Backend   string `json:"backend"`
	Connected bool   `json:"connected"`
	Detail    string `json:"detail"`
}

// PeerState says how far a peer's session is.
type PeerState string

// The states of a peer.
const (
	StateConnected  PeerState = "connected"  // ICE has selected a path
	StateConnecting PeerState = "connecting" // ICE is looking for one
	StateIdle       PeerState = "idle"       // no session: nothing has asked for one
	StateFailed     PeerState = "failed"     // no path was found; it is tried again later
	StatePlain      PeerState = "plain"      // an ordinary WireGuard peer without ICE
)

// PeerStatus is the state of one peer. Path, roundTripMs and lastHandshake are left out of the JSON while there is none.
type PeerStatus struct {
	PublicKey     string         `json:"publicKey"` // base64
	Name          string         `json:"name"`      // "" unless the file gives it one
	AllowedIPs    []netip.Prefix `json:"allowedIPs"`
	State         PeerState      `json:"state"`
	Path          *PathStatus    `json:"path,omitempty"`
	Reason        string         `json:"reason"` // why it is not connected, or not direct; "": it is both
	RoundTripMs   float64        `json:"roundTripMs,omitempty"`
	RxBytes       uint64         `json:"rxBytes"`
	TxBytes       uint64         `json:"txBytes"`
	LastHandshake time.Time      `json:"lastHandshake,omitzero"`
	Restarts      uint64         `json:"restarts"`
}

// DisplayName returns the name that the file gives the peer, or else the beginning of its key.
func (p *PeerStatus) DisplayName() string {
	if p.Name != "" {
		return p.Name
	}
	if k, err := key.ParsePublic(p.PublicKey); err == nil {
		return k.Short()
	}
	return p.PublicKey
}

// NotConnected lists the peers with ICE that are not connected, each with its state and the reason.
func (s *Status) NotConnected() []string {
	var list []string
	for _, p := range s.Peers {
		switch p.State {
		case StateConnected, StatePlain:
			continue
		}
		list = append(list, fmt.Sprintf("%s: %s: %s", p.DisplayName(), p.State, p.Reason))
	}
	return list
}

// RouteTo returns the peer that WireGuard sends packets for addr to, that of the longest prefix; nil if there is none.
func (s *Status) RouteTo(addr netip.Addr) (best *PeerStatus) {
	bits := -1
	for i := range s.Peers {
		for _, n := range s.Peers[i].AllowedIPs {
			if n.Contains(addr) && n.Bits() > bits {
				best, bits = &s.Peers[i], n.Bits()
			}
		}
	}
	return best
}

// PathKind says how packets reach the peer.
type PathKind string

// The kinds of paths.
const (
	PathDirect PathKind = "direct"
	PathRelay  PathKind = "relay" // through a TURN server of either side
	PathPlain  PathKind = "plain" // to an endpoint that WireGuard itself chose
)

// PathStatus is the path in use.
type PathStatus struct {
	Kind     PathKind  `json:"kind"`
	Local    EndStatus `json:"local"`
	Remote   EndStatus `json:"remote"`
	Protocol string    `json:"protocol"` // "udp", "tcp" or "tls"

	// MTU is the size in bytes of the largest packet inside the tunnel that the path carries in one piece, at most the MTU of the
	// interface; 0: not known. PathMTU is what limits it: the MTU outside, headers included; 0 where the path limits nothing.
	MTU     int `json:"mtu,omitempty"`
	PathMTU int `json:"pathMtu,omitempty"`
}

// EndStatus is one end of a path.
type EndStatus struct {
	Type    string         `json:"type"` // "host", "srflx", "prflx" or "relay"; "" for a plain path
	Address netip.AddrPort `json:"address"`
}

// MarshalJSON implements [json.Marshaler]: lists are never null, times are in UTC, and the version is set.
func (s Status) MarshalJSON() ([]byte, error) {
	type bare Status
	s.Version = Version
	if s.Signaling == nil {
		s.Signaling = []SignalingStatus{}
	}
	peers := make([]PeerStatus, len(s.Peers))
	copy(peers, s.Peers)
	for n := range peers {
		if peers[n].AllowedIPs == nil {
			peers[n].AllowedIPs = []netip.Prefix{}
		}
		if !peers[n].LastHandshake.IsZero() {
			peers[n].LastHandshake = peers[n].LastHandshake.UTC()
		}
	}
	s.Peers = peers
	return json.Marshal(bare(s))
}
