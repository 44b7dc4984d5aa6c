package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/wice-go/wice-go/test/natlab"
)

// A coturn of the user's own relays where nothing else works, whatever way leads to it.
func TestCoturn(t *testing.T) {
	needTool(t, "turnserver")
	tests := []struct {
		name     string
		server   func(s *natlab.TURN) string
		protocol string
	}{
		{"UDP", func(s *natlab.TURN) string {
			return fmt.Sprintf("turn:%s:%s@%s:%d", s.Username, s.Password, s.Addr4, s.Port)
		}, "udp"},
		{"TCP", func(s *natlab.TURN) string {
			return fmt.Sprintf("turn:%s:%s@%s:%d?transport=tcp", s.Username, s.Password, s.Addr4, s.Port)
		}, "tcp"},
		{"TLS", func(s *natlab.TURN) string {
			return fmt.Sprintf("turns:%s:%s@%s:%d", s.Username, s.Password, s.Addr4, s.TLSPort)
		}, "tls"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, natlab.Config{A: natlab.Site{NAT: natlab.Symmetric}, B: natlab.Site{NAT: natlab.Symmetric}})
			w.rendezvous("--relay=false", "--stun-port", "13478")
			s := natlab.CoTURN(t, w.lab.Server, natlab.CoTURNOptions{})
			na, nb := w.node(w.lab.A[0]), w.node(w.lab.B[0])
			// One side alone has a relay: that is enough.
			nb.lines = []string{"#!wice ICEServer = " + tt.server(s)}
			nb.env = []string{"SSL_CERT_FILE=" + s.CertFile}
			join(na, nb)
			na.up()
			took := nb.upAndPing(na)
			p := nb.peerUntil(na, "through the relay", func(p peerStatus) bool {
				return p.Path != nil && p.Path.Kind == "relay" && p.Path.Local.Type == "relay" && p.Path.Protocol == tt.protocol
			})
			na.peerUntil(nb, "through the relay", func(p peerStatus) bool { return p.Path != nil && p.Path.Kind == "relay" })
			t.Logf("first ping after %v; %v", took.Round(ms), p)
		})
	}
}

// Where nothing but TCP to port 443 passes, TURN over TCP or TLS on that port connects.
func TestUDPBlocked(t *testing.T) {
	needTool(t, "turnserver")
	for _, protocol := range []string{"tcp", "tls"} {
		t.Run("coturn over "+protocol, func(t *testing.T) {
			w := newWorld(t, natlab.Config{A: natlab.Site{NAT: natlab.UDPBlocked}, B: natlab.Site{NAT: natlab.PortRestricted}})
			w.rendezvous("--address", w.lab.ServerAlt4.String(), "--port", "443", "--relay=false")
			o, scheme, suffix := natlab.CoTURNOptions{Port: 443}, "turn", "?transport=tcp"
			if protocol == "tls" {
				o, scheme, suffix = natlab.CoTURNOptions{TLSPort: 443}, "turns", ""
			}
			s := natlab.CoTURN(t, w.lab.Server, o)
			na := w.node(w.lab.A[0], fmt.Sprintf("#!wice ICEServer = %s:%s:%s@%s:443%s", scheme, s.Username, s.Password, s.Addr4, suffix))
			na.env = []string{"SSL_CERT_FILE=" + s.CertFile}
			relayedOver(w, na, w.node(w.lab.B[0]), protocol)
		})
	}
}

// The same with IPv6 alone, and from behind a firewall that would let a direct path through but for CandidateTypes.
func TestIPv6Relay(t *testing.T) {
	needTool(t, "turnserver")
	for _, protocol := range []string{"udp", "tcp", "tls", "rendezvous"} {
		t.Run(protocol, func(t *testing.T) {
			site := natlab.Site{NAT: natlab.UDPBlocked, Firewall6: true}
			if protocol == "udp" || protocol == "rendezvous" {
				site.NAT = natlab.None
			}
			w := newWorld(t, natlab.Config{Family: natlab.IPv6, A: site, B: natlab.Site{Firewall6: true}})
			w.rendezvous("--address", w.lab.ServerAlt6.String(), "--port", "443", fmt.Sprintf("--relay=%v", protocol == "rendezvous"))
			na, nb := w.node(w.lab.A[0], "#!wice CandidateTypes = relay"), w.node(w.lab.B[0])
			if protocol != "rendezvous" {
				o, scheme, suffix := natlab.CoTURNOptions{Port: 443}, "turn", "?transport="+protocol
				if protocol == "tls" {
					o, scheme, suffix = natlab.CoTURNOptions{TLSPort: 443}, "turns", ""
				}
				s := natlab.CoTURN(t, w.lab.Server, o)
				na.lines = append(na.lines, fmt.Sprintf("#!wice ICEServer = %s:%s:%s@[%s]:443%s", scheme, s.Username, s.Password, s.Addr6, suffix))
				na.env = []string{"SSL_CERT_FILE=" + s.CertFile}
			}
			join(na, nb)
			nb.up()
			took := na.upAndPing(nb)
			p := na.peerUntil(nb, "through its relay", func(p peerStatus) bool {
				return p.Path != nil && p.Path.Kind == "relay" && p.Path.Local.Type == "relay"
			})
			t.Logf("first ping after %v; %v", took.Round(ms), p)
			if want := map[string]string{"rendezvous": "udp"}[protocol]; p.Path.Protocol != protocol && p.Path.Protocol != want {
				t.Errorf("got %v, want %s", p, protocol)
			}
		})
	}
}

// Where UDP is blocked and TCP passes, the rendezvous is enough.
func TestUDPBlockedRendezvous(t *testing.T) {
	w := newWorld(t, natlab.Config{A: natlab.Site{NAT: natlab.PortRestricted}, B: natlab.Site{NAT: natlab.PortRestricted}})
	w.rendezvous()
	na := w.node(w.lab.A[0])
	if r := na.run("nft", "add table ip block; add chain ip block out { type filter hook output priority 0; }; add rule ip block out oifname eth0 meta l4proto udp drop"); r.code != 0 {
		t.Fatal(r)
	}
	relayedOver(w, na, w.node(w.lab.B[0]), "tcp")
}

// relayedOver connects the nodes, the first of which can't send UDP.
func relayedOver(w *world, na, nb *node, protocol string) {
	w.t.Helper()
	join(na, nb)
	nb.up()
	took := na.upAndPing(nb)
	p := na.peerUntil(nb, "through the relay over "+protocol, func(p peerStatus) bool {
		return p.Path != nil && p.Path.Kind == "relay" && p.Path.Protocol == protocol
	})
	w.t.Logf("first ping after %v; %v", took.Round(ms), p)
	if want := "UDP blocked: relayed over " + strings.ToUpper(protocol); p.Reason != want {
		w.t.Errorf("got reason %q, want %q", p.Reason, want)
	}
}
