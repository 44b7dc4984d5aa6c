package control

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// WriteMetrics writes st in the Prometheus text exposition format (version 0.0.4).
func WriteMetrics(w io.Writer, st *Status) error {
	b := bufio.NewWriter(w)
	m := metrics{b, st.Interface}
	m.head("wice_signaling_connected", "gauge", "Whether the signaling backend can carry anything now.")
	for _, s := range st.Signaling {
		m.sample("wice_signaling_connected", boolValue(s.Connected), "backend", s.Backend)
	}
	m.head("wice_peer_state", "gauge", "1 for the state that the peer is in.")
	for _, p := range st.Peers {
		for _, state := range []PeerState{StateConnected, StateConnecting, StateIdle, StateFailed, StatePlain} {
			m.peer("wice_peer_state", boolValue(p.State == state), &p, "state", string(state))
		}
	}
	m.head("wice_peer_path", "gauge", "1 for the kind of path in use.")
	for _, p := range st.Peers {
		for _, kind := range []PathKind{PathDirect, PathRelay, PathPlain} {
			m.peer("wice_peer_path", boolValue(p.Path != nil && p.Path.Kind == kind), &p, "kind", string(kind))
		}
	}
	m.each(st, "wice_peer_receive_bytes_total", "counter", "Bytes received from the peer.", func(p *PeerStatus) (float64, bool) { return float64(p.RxBytes), true })
	m.each(st, "wice_peer_transmit_bytes_total", "counter", "Bytes sent to the peer.", func(p *PeerStatus) (float64, bool) { return float64(p.TxBytes), true })
	m.each(st, "wice_peer_restarts_total", "counter", "ICE restarts of the peer's session.", func(p *PeerStatus) (float64, bool) { return float64(p.Restarts), true })
	m.each(st, "wice_peer_round_trip_seconds", "gauge", "Round trip time of the path in use.", func(p *PeerStatus) (float64, bool) {
		return p.RoundTripMs / 1000, p.RoundTripMs > 0
	})
	m.each(st, "wice_peer_path_mtu_bytes", "gauge", "Largest packet inside the tunnel that the path carries in one piece.", func(p *PeerStatus) (float64, bool) {
		if p.Path == nil {
			return 0, false
		}
		return float64(p.Path.MTU), p.Path.MTU > 0
	})
	m.each(st, "wice_peer_last_handshake_timestamp_seconds", "gauge", "When the last handshake with the peer was.", func(p *PeerStatus) (float64, bool) {
		return float64(p.LastHandshake.UnixMilli()) / 1000, !p.LastHandshake.IsZero()
	})
	return b.Flush() // has the first error of all writes before
}

type metrics struct {
	b     *bufio.Writer
	iface string
}

func (m metrics) head(name, kind, help string) {
	fmt.Fprintf(m.b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (m metrics) sample(name string, value float64, labels ...string) {
	fmt.Fprintf(m.b, "%s{interface=%s", name, quoteLabel(m.iface))
	for n := 0; n < len(labels); n += 2 {
		fmt.Fprintf(m.b, ",%s=%s", labels[n], quoteLabel(labels[n+1]))
	}
	fmt.Fprintf(m.b, "} %v\n", value)
}

func (m metrics) peer(name string, value float64, p *PeerStatus, labels ...string) {
	m.sample(name, value, append([]string{"public_key", p.PublicKey, "name", p.Name}, labels...)...)
}

func (m metrics) each(st *Status, name, kind, help string, value func(*PeerStatus) (float64, bool)) {
	m.head(name, kind, help)
	for n := range st.Peers {
		if v, ok := value(&st.Peers[n]); ok {
			m.peer(name, v, &st.Peers[n])
		}
	}
}

func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func quoteLabel(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(strings.ToValidUTF8(s, "?")) + `"`
}
