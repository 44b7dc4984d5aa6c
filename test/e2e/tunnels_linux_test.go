package e2e

import (
	"net/netip"
	"testing"

	"github.com/wice-go/wice-go/test/natlab"
)

// overlays are the networks inside.
var overlays = netip.MustParsePrefix("10.98.0.0/15")

// Two interfaces on each of two hosts: neither takes a path through the other, whichever is up first and when one starts again.
func TestTwoTunnels(t *testing.T) {
	w := newWorld(t, natlab.Config{A: natlab.Site{NAT: natlab.PortRestricted}, B: natlab.Site{NAT: natlab.PortRestricted}})
	w.rendezvous()
	a0, b0 := w.node(w.lab.A[0]), w.node(w.lab.B[0])
	a1, b1 := w.second(a0), w.second(b0)
	join(a0, b0)
	join(a1, b1)
	pairs := [][2]*node{{a0, b0}, {a1, b1}}
	outside := func(when string) {
		t.Helper()
		for _, p := range pairs {
			for i, n := range p {
				other := p[1-i]
				n.firstPing(other.addr)
				got := n.connected(other)
				if got.Path == nil {
					t.Fatalf("%s: %s on %s has no path", when, n.iface, n.host.Name)
				}
				for _, end := range []string{got.Path.Local.Address, got.Path.Remote.Address} {
					if at, err := netip.ParseAddrPort(end); err != nil || overlays.Contains(at.Addr()) {
						t.Errorf("%s: %s on %s goes through a tunnel: %v", when, n.iface, n.host.Name, got)
					}
				}
			}
		}
	}
	a0.up()
	b0.up()
	a0.firstPing(b0.addr)
	a1.up() // finds wg0 in use
	b1.up()
	outside("the second after the first")
	for _, n := range []*node{a0, b0} {
		n.down()
	}
	a0.up() // finds wg1 in use
	b0.up()
	outside("the first started again")
	a1.down()
	a1.up()
	outside("one end of the second started again")
}
