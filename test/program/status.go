package program

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/wice-go/wice-go/proto/key"
)

// What "status --json" prints, as its users were told: written down once more, not taken from wice-go.
type (
	// Status is the state of one interface.
	Status struct {
		Version    int         `json:"version"`
		Interface  string      `json:"interface"`
		PublicKey  string      `json:"publicKey"`
		ListenPort int         `json:"listenPort"`
		Tun        string      `json:"tun"`
		Signaling  []Signaling `json:"signaling"`
		Peers      []Peer      `json:"peers"`
	}
	// Signaling is one way to the peers.
	Signaling struct {
		Backend   string `json:"backend"`
		Connected bool   `json:"connected"`
		Detail    string `json:"detail"`
	}
	// Peer is the state of one peer.
	Peer struct {
		PublicKey     string    `json:"publicKey"`
		Name          string    `json:"name"`
		AllowedIPs    []string  `json:"allowedIPs"`
		State         string    `json:"state"`
		Path          *Path     `json:"path"`
		Reason        string    `json:"reason"`
		RoundTripMs   float64   `json:"roundTripMs"`
		RxBytes       int64     `json:"rxBytes"`
		TxBytes       int64     `json:"txBytes"`
		LastHandshake time.Time `json:"lastHandshake"`
		Restarts      int       `json:"restarts"`
	}
	// Path is how packets to a peer travel.
	Path struct {
		Kind     string `json:"kind"`
		Local    End    `json:"local"`
		Remote   End    `json:"remote"`
		Protocol string `json:"protocol"`
		MTU      int    `json:"mtu"`
		PathMTU  int    `json:"pathMtu"`
	}
	// End is one end of a path.
	End struct {
		Type    string `json:"type"`
		Address string `json:"address"`
	}
)

func (p Peer) String() string {
	path := "no path"
	if p.Path != nil {
		path = fmt.Sprintf("%s %s %s -> %s %s, %s", p.Path.Kind, p.Path.Local.Type, p.Path.Local.Address, p.Path.Remote.Type, p.Path.Remote.Address, p.Path.Protocol)
	}
	return fmt.Sprintf("%s %q: %s (%s), restarts %d", p.State, p.Reason, p.Name, path, p.Restarts)
}

// The fields that are always there; path, roundTripMs and lastHandshake only where there is one.
var (
	statusFields = []string{"version", "interface", "publicKey", "listenPort", "tun", "signaling", "peers"}
	peerFields   = []string{"publicKey", "name", "allowedIPs", "state", "reason", "rxBytes", "txBytes", "restarts"}
)

// DecodeStatus reads strictly: a field that is not known, or one that is missing, is an error.
func DecodeStatus(text string) (Status, error) {
	var s Status
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, err
	}
	var raw struct {
		Peers []map[string]any `json:"peers"`
	}
	var top map[string]any
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(text), &top); err != nil {
		return s, err
	}
	missing := func(m map[string]any, want []string) error {
		for _, f := range want {
			if _, ok := m[f]; !ok {
				return fmt.Errorf("field %q is missing", f)
			}
		}
		return nil
	}
	if err := missing(top, statusFields); err != nil {
		return s, err
	}
	for i, p := range raw.Peers {
		if err := missing(p, peerFields); err != nil {
			return s, fmt.Errorf("peer %d: %w", i, err)
		}
		if _, ok := p["path"]; !ok && s.Peers[i].State == "connected" {
			return s, fmt.Errorf("peer %d is connected and has no path", i)
		}
	}
	return s, s.check()
}

// check compares values with those that were promised.
func (s Status) check() error {
	if s.Version != 1 || s.Tun != "kernel" && s.Tun != "netstack" {
		return fmt.Errorf("version %d and tun %q, want 1, and kernel or netstack", s.Version, s.Tun)
	}
	for _, p := range s.Peers {
		if !slices.Contains([]string{"connected", "connecting", "idle", "failed", "plain"}, p.State) {
			return fmt.Errorf("peer %s: unknown state %q", p.Name, p.State)
		}
		direct := p.Path != nil && p.Path.Kind == "direct" && p.Path.Protocol == "udp"
		if !(p.State == "connected" && direct) && p.State != "plain" && p.Reason == "" {
			return fmt.Errorf("peer %s does not say why it is not connected directly: %v", p.Name, p)
		}
		if p.Path == nil {
			continue
		}
		if !slices.Contains([]string{"direct", "relay", "plain"}, p.Path.Kind) || !slices.Contains([]string{"udp", "tcp", "tls"}, p.Path.Protocol) {
			return fmt.Errorf("peer %s: unknown path %+v", p.Name, *p.Path)
		}
	}
	return nil
}

// Find returns the peer with that key.
func (s Status) Find(k key.Public) (Peer, error) {
	for _, p := range s.Peers {
		if p.PublicKey == k.String() {
			return p, nil
		}
	}
	return Peer{}, fmt.Errorf("status has no peer %s: %+v", k, s)
}
