package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wice-go/wice-go/test/natlab"
)

// Every pair of NATs connects: directly where a hole can be punched, through the rendezvous where not.
func TestNATPairs(t *testing.T) {
	kinds := []natlab.NAT{natlab.FullCone, natlab.AddressRestricted, natlab.PortRestricted, natlab.Symmetric}
	for i, a := range kinds {
		for _, b := range kinds[i:] {
			t.Run(a.String()+" and "+b.String(), func(t *testing.T) {
				w := newWorld(t, natlab.Config{A: natlab.Site{NAT: a}, B: natlab.Site{NAT: b}})
				w.rendezvous()
				na, nb := w.node(w.lab.A[0]), w.node(w.lab.B[0])
				join(na, nb)
				na.up()
				took := nb.upAndPing(na)
				want := "direct"
				if b == natlab.Symmetric && (a == natlab.Symmetric || a == natlab.PortRestricted) {
					want = "relay"
				}
				pa := na.peerUntil(nb, "by a "+want+" path", func(p peerStatus) bool { return p.Path != nil && p.Path.Kind == want })
				pb := nb.peerUntil(na, "by a "+want+" path", func(p peerStatus) bool { return p.Path != nil && p.Path.Kind == want })
				t.Logf("first ping after %v; %v; %v", took.Round(ms), pa, pb)
				if want == "relay" && a == natlab.Symmetric {
					na.peerUntil(nb, "with the reason", reasonHas("symmetric NAT on both sides"))
				}
			})
		}
	}
}

// A provider's NAT in front of the home router's is one more hole to punch, or one more reason for a relay.
func TestDoubleNAT(t *testing.T) {
	for _, tt := range []struct {
		inner, outer natlab.NAT
		want         string
	}{
		{natlab.PortRestricted, natlab.FullCone, "direct"},
		{natlab.PortRestricted, natlab.PortRestricted, "direct"},
		{natlab.PortRestricted, natlab.Symmetric, "relay"},
	} {
		t.Run(tt.outer.String()+" outside", func(t *testing.T) {
			w := newWorld(t, natlab.Config{A: natlab.Site{NAT: tt.inner, Outer: tt.outer}, B: natlab.Site{NAT: natlab.PortRestricted}})
			w.rendezvous()
			na, nb := w.node(w.lab.A[0]), w.node(w.lab.B[0])
			join(na, nb)
			na.up()
			took := nb.upAndPing(na)
			p := nb.peerUntil(na, "by a "+tt.want+" path", func(p peerStatus) bool { return p.Path != nil && p.Path.Kind == tt.want })
			t.Logf("first ping after %v; %v", took.Round(ms), p)
		})
	}
}

// IPv6 alone, with firewalls that admit only answers, is a hole to punch too.
func TestIPv6Only(t *testing.T) {
	w := newWorld(t, natlab.Config{Family: natlab.IPv6, A: natlab.Site{Firewall6: true}, B: natlab.Site{Firewall6: true}})
	w.rendezvous()
	na, nb := w.node(w.lab.A[0]), w.node(w.lab.B[0])
	join(na, nb)
	na.up()
	took := nb.upAndPing(na)
	p := nb.connected(na)
	t.Logf("first ping after %v; %v", took.Round(ms), p)
	if remote := netip.MustParseAddrPort(p.Path.Remote.Address); p.Path.Kind != "direct" || !remote.Addr().Is6() {
		t.Errorf("got %v, want a direct path over IPv6", p)
	}
}

// With both versions, a site that lacks one connects by the other; where IPv4 would need a relay, IPv6 is direct.
func TestDualStack(t *testing.T) {
	for _, tt := range []struct {
		name string
		a, b natlab.Site
		six  bool
	}{
		{"both", natlab.Site{NAT: natlab.Symmetric, Firewall6: true}, natlab.Site{NAT: natlab.Symmetric, Firewall6: true}, true},
		{"one without IPv6", natlab.Site{NAT: natlab.PortRestricted, Firewall6: true}, natlab.Site{NAT: natlab.PortRestricted, NoIPv6: true}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, natlab.Config{Family: natlab.DualStack, A: tt.a, B: tt.b})
			w.rendezvous()
			na, nb := w.node(w.lab.A[0]), w.node(w.lab.B[0])
			join(na, nb)
			na.up()
			took := nb.upAndPing(na)
			p := nb.peerUntil(na, "directly", func(p peerStatus) bool { return p.Path != nil && p.Path.Kind == "direct" })
			t.Logf("first ping after %v; %v", took.Round(ms), p)
			if remote := netip.MustParseAddrPort(p.Path.Remote.Address); remote.Addr().Is6() != tt.six {
				t.Errorf("got %v, want IPv6 %v", p, tt.six)
			}
		})
	}
}

// Hosts on one LAN find each other by mDNS, without any server.
func TestLANAlone(t *testing.T) {
	for _, family := range []natlab.Family{natlab.IPv4, natlab.DualStack} {
		t.Run(fmt.Sprintf("family %d", family), func(t *testing.T) {
			w := newWorld(t, natlab.Config{Family: family, LANOnly: true, A: natlab.Site{Hosts: 2}})
			na, nb := w.node(w.lab.A[0]), w.node(w.lab.A[1])
			join(na, nb)
			figures := w.secondUp(na, nb, 5)
			p := nb.connected(na)
			t.Logf("from the second up to the first answer: %v; %v", figures, p)
			if at := netip.MustParseAddrPort(p.Path.Remote.Address).Addr(); p.Path.Kind != "direct" || at != w.lab.A[0].Addr4() && at != w.lab.A[0].Addr6() {
				t.Errorf("got %v, want a direct path on the LAN", p)
			}
		})
	}
}

// Two hosts behind one NAT use the same listen port: each is reached, by each other and by a host elsewhere, and the two use
// their own LAN. The NAT keeps the port of one of them: the other may need a relay to the host elsewhere, as behind a symmetric NAT.
func TestSamePortBehindOneNAT(t *testing.T) {
	w := newWorld(t, natlab.Config{A: natlab.Site{NAT: natlab.PortRestricted, Hosts: 2}, B: natlab.Site{NAT: natlab.PortRestricted}})
	w.rendezvous()
	a0, a1, b := w.node(w.lab.A[0], "ListenPort = 51820"), w.node(w.lab.A[1], "ListenPort = 51820"), w.node(w.lab.B[0], "ListenPort = 51820")
	join(a0, a1, b)
	for _, n := range w.nodes {
		n.up()
	}
	for _, from := range w.nodes {
		for _, to := range w.nodes {
			if from != to {
				from.firstPing(to.addr)
				t.Logf("%s: %v", from.name, from.connected(to))
			}
		}
	}
	if p := a0.connected(a1); p.Path.Kind != "direct" || !strings.HasPrefix(p.Path.Remote.Address, a1.host.Addr4().String()+":") {
		t.Errorf("a0 reaches a1 by %v, want its address on the LAN, %v", p, a1.host.Addr4())
	}
	if pa, pb := a0.connected(b), a1.connected(b); pa.Path.Kind != "direct" && pb.Path.Kind != "direct" {
		t.Errorf("both need a relay: %v; %v", pa, pb)
	}
}

// The time from the second "up" to the first answered ping.
func TestTimeToFirstPing(t *testing.T) {
	t.Run("port restricted NATs", func(t *testing.T) {
		w, na, nb := newPair(t, natlab.PortRestricted)
		t.Logf("port restricted NATs: from the second up to the first answer: %v", w.secondUp(na, nb, 7))
	})
	t.Run("relay", func(t *testing.T) {
		w, na, nb := newPair(t, natlab.Symmetric)
		t.Logf("through the relay: from the second up to the first answer: %v", w.secondUp(na, nb, 5))
	})
}

// figures are measured times.
type figures []time.Duration

func (f figures) String() string {
	sorted := slices.Sorted(slices.Values(f))
	return fmt.Sprintf("median %v, from %v to %v, of %d", sorted[len(sorted)/2].Round(ms), sorted[0].Round(ms), sorted[len(sorted)-1].Round(ms), len(f))
}

// secondUp measures the time from the second "up" to the first answered ping, several times from the beginning.
func (w *world) secondUp(na, nb *node, times int) figures {
	w.t.Helper()
	var f figures
	for i := range times {
		if i > 0 {
			na.down()
			nb.down()
		}
		na.up()
		w.until(patience, na.name+" has signaling", func() (bool, string) {
			s := na.status()
			return len(s.Signaling) == 1 && s.Signaling[0].Connected, fmt.Sprintf("%+v", s.Signaling)
		})
		f = append(f, nb.upAndPing(na))
	}
	return f
}

// Lazy sessions begin with the first packet, on one side's demand alone.
func TestLazy(t *testing.T) {
	w := newWorld(t, natlab.Config{A: natlab.Site{NAT: natlab.PortRestricted}, B: natlab.Site{NAT: natlab.PortRestricted}})
	w.rendezvous()
	na, nb := w.node(w.lab.A[0], "#!wice Lazy = true"), w.node(w.lab.B[0], "#!wice Lazy = true")
	join(na, nb)
	na.up()
	nb.up()
	w.until(patience, "both have signaling", func() (bool, string) {
		a, b := na.status(), nb.status()
		return a.Signaling[0].Connected && b.Signaling[0].Connected, fmt.Sprint(a.Signaling, b.Signaling)
	})
	for _, n := range w.nodes {
		if p := n.status().Peers[0]; p.State != "idle" {
			t.Errorf("%s: got %v, want idle", n.name, p)
		}
	}
	t.Logf("first ping after %v", na.firstPing(nb.addr).Round(ms))
	na.connected(nb)
	nb.connected(na)
}
