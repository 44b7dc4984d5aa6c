package device

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/session"
)

// defaultPingTimeout is how long a probe waits for its reply where the request does not say.
const defaultPingTimeout = 5 * time.Second

var _ interface {
	Status(context.Context) (*control.Status, error)
	Ping(context.Context, control.PingRequest) (control.PingReply, error)
	Metrics(io.Writer) error
} = (*Device)(nil)

// Status returns a snapshot of the interface, with the peers in the order of the file, then those that were added later.
func (d *Device) Status(context.Context) (*control.Status, error) {
	state, err := d.readState()
	if err != nil {
		return nil, err
	}
	s := &control.Status{
		Interface:  d.opts.Name,
		ListenPort: state.listenPort,
		Tun:        d.opts.TunKind,
	}
	if !state.privateKey.IsZero() {
		s.PublicKey = state.privateKey.Public().String()
	}
	signaling := d.signalingStatuses()
	for _, b := range signaling {
		s.Signaling = append(s.Signaling, control.SignalingStatus(b))
	}
	order := make(map[key.Public]int, len(d.Config().Peers))
	for i, p := range d.Config().Peers {
		order[p.PublicKey] = i - len(d.Config().Peers) // below 0, which the others have
	}
	slices.SortFunc(state.peers, func(a, b wgPeer) int {
		if n := order[a.publicKey] - order[b.publicKey]; n != 0 {
			return n
		}
		return a.publicKey.Compare(b.publicKey)
	})
	for i := range state.peers {
		s.Peers = append(s.Peers, d.peerStatus(&state.peers[i], signaling))
	}
	return s, nil
}

func (d *Device) signalingStatuses() []signal.Status {
	d.mu.RLock()
	router := d.router
	d.mu.RUnlock()
	if router == nil {
		return nil
	}
	return router.Statuses()
}

func (d *Device) peerStatus(w *wgPeer, signaling []signal.Status) control.PeerStatus {
	s := control.PeerStatus{
		PublicKey:     w.publicKey.String(),
		Name:          d.peerConfig(w.publicKey).Name,
		AllowedIPs:    w.allowedIPs,
		RxBytes:       w.rxBytes,
		TxBytes:       w.txBytes,
		LastHandshake: w.lastHandshake,
	}
	answers := time.Since(w.lastHandshake) < answeredWithin
	p := d.lookup(w.publicKey)
	if p == nil {
		s.State = control.StatePlain
		s.Path = plainPath(w.endpoint)
		s.Reason = d.plainReason(w, answers)
		return s
	}
	ice := p.session.Status()
	s.Restarts = ice.Restarts
	switch {
	case ice.Path != nil && ice.State == session.Connected:
		s.State = control.StateConnected
		s.Path = icePath(ice.Path, d.mtuOf(p))
		s.RoundTripMs = float64(ice.RoundTrip) / float64(time.Millisecond)
		s.Reason = ice.Reason
	case ice.Path != nil && w.endpoint == ice.Path.Remote.Address.String():
		// The path of before is kept until there is another one, whether or not it still works.
		s.State = stateOf(ice.State)
		s.Path = icePath(ice.Path, d.mtuOf(p))
		s.Reason = withSignaling(ice.Reason, signaling)
	case answers && w.endpoint != "":
		// The peer answers at an endpoint that was set or roamed to: an ordinary WireGuard tunnel.
		s.State = control.StatePlain
		s.Path = plainPath(w.endpoint)
		s.Reason = ice.Reason
	default:
		s.State = stateOf(ice.State)
		s.Reason = withSignaling(ice.Reason, signaling)
	}
	return s
}

func stateOf(s session.State) control.PeerState {
	switch s {
	case session.Connected, session.Connecting:
		return control.StateConnecting
	case session.Failed:
		return control.StateFailed
	}
	return control.StateIdle
}

// plainReason says why a peer without ICE is one.
func (d *Device) plainReason(w *wgPeer, answers bool) string {
	d.mu.RLock()
	keyless := d.identity.IsZero()
	d.mu.RUnlock()
	var why string
	switch {
	case d.peerConfig(w.publicKey).ICE == config.ICEOff:
		why = "ICE = off"
	case w.publicKey.Validate() != nil:
		why = "no ICE: " + w.publicKey.Validate().Error()
	case len(d.opts.Backends) == 0:
		why = "no signaling is configured"
	case keyless:
		why = "no ICE: the interface has no private key"
	default:
		why = "no ICE: the interface is down"
	}
	switch {
	case w.endpoint == "":
		return why + "; no endpoint yet: the peer has to send first"
	case !answers:
		return why + "; no answer from " + w.endpoint
	}
	return why
}

// withSignaling adds the state of the signaling to a reason, since without signaling nothing else can be cured.
func withSignaling(reason string, signaling []signal.Status) string {
	var down []string
	for _, s := range signaling {
		if s.Connected {
			return reason
		}
		down = append(down, s.Backend+": "+s.Detail)
	}
	if len(down) == 0 {
		return reason
	}
	first, _, _ := strings.Cut(reason, ";") // the rest is a consequence
	return strings.TrimPrefix(first+"; signaling not connected: "+strings.Join(down, "; "), "; ")
}

func plainPath(endpoint string) *control.PathStatus {
	remote, err := netip.ParseAddrPort(endpoint)
	if err != nil {
		return nil
	}
	return &control.PathStatus{Kind: control.PathPlain, Remote: control.EndStatus{Address: remote}, Protocol: "udp"}
}

func icePath(p *session.Path, mtu pathMTU) *control.PathStatus {
	s := &control.PathStatus{
		Kind:     control.PathDirect,
		Local:    control.EndStatus{Type: p.Local.Type.String(), Address: p.Local.Address},
		Remote:   control.EndStatus{Type: p.Remote.Type.String(), Address: p.Remote.Address},
		Protocol: "udp",
		MTU:      mtu.inner,
		PathMTU:  mtu.path,
	}
	switch {
	case p.Relayed:
		s.Kind = control.PathRelay
		if p.RelayProtocol != "" {
			s.Protocol = p.RelayProtocol
		}
	case p.Network == proto.TCP4 || p.Network == proto.TCP6:
		s.Protocol = "tcp"
	}
	return s
}

// Ping sends one echo request through the tunnel to the peer of that name, key or overlay address.
func (d *Device) Ping(ctx context.Context, r control.PingRequest) (control.PingReply, error) {
	s, err := d.Status(ctx)
	if err != nil {
		return control.PingReply{}, err
	}
	p, addr, err := findPeer(s, r.Peer)
	if err != nil {
		return control.PingReply{}, err
	}
	if d.opts.Ping == nil {
		return control.PingReply{}, fmt.Errorf("this interface can't send echo requests")
	}
	timeout := defaultPingTimeout
	if r.TimeoutMs > 0 {
		timeout = min(time.Duration(r.TimeoutMs)*time.Millisecond, control.MaxPingTimeout)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	rtt, err := d.opts.Ping(ctx, addr)
	if err != nil {
		if ctx.Err() != nil {
			why := p.Reason
			if why == "" {
				why = "does a firewall there drop ICMP?"
			}
			return control.PingReply{}, fmt.Errorf("%w from %s within %v (%s: %s)", control.ErrNoReply, addr, timeout, p.State, why)
		}
		return control.PingReply{}, fmt.Errorf("ping %s: %w", addr, err)
	}
	reply := control.PingReply{PublicKey: p.PublicKey, Name: p.Name, Address: addr, RoundTripMs: float64(rtt) / float64(time.Millisecond)}
	if s, err := d.Status(ctx); err == nil {
		for i := range s.Peers {
			if s.Peers[i].PublicKey == p.PublicKey {
				reply.Path = s.Peers[i].Path
			}
		}
	}
	return reply, nil
}

// findPeer finds the peer that a user means, and its overlay address.
func findPeer(s *control.Status, who string) (*control.PeerStatus, netip.Addr, error) {
	if addr, err := netip.ParseAddr(who); err == nil {
		if p := s.RouteTo(addr); p != nil {
			return p, addr, nil
		}
		return nil, netip.Addr{}, fmt.Errorf("%s is among no peer's allowed IPs: %w", addr, control.ErrNoSuchPeer)
	}
	var found *control.PeerStatus
	for i := range s.Peers {
		p := &s.Peers[i]
		if who == "" || p.Name != who && !strings.HasPrefix(p.PublicKey, who) {
			continue
		}
		if found != nil {
			return nil, netip.Addr{}, fmt.Errorf("%q names more than one peer: %w; give more of the key", who, control.ErrNoSuchPeer)
		}
		found = p
	}
	if found == nil {
		return nil, netip.Addr{}, fmt.Errorf("%q: %w; see \"wice-go status %s\"", who, control.ErrNoSuchPeer, s.Interface)
	}
	for _, n := range found.AllowedIPs {
		if n.IsSingleIP() {
			return found, n.Addr(), nil
		}
	}
	return nil, netip.Addr{}, fmt.Errorf("%q has no single address among its allowed IPs: give the address to ping", who)
}

// Metrics writes the state in the Prometheus text format.
func (d *Device) Metrics(w io.Writer) error {
	s, err := d.Status(context.Background())
	if err != nil {
		return err
	}
	return control.WriteMetrics(w, s)
}
