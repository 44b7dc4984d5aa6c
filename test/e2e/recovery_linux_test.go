package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/wice-go/wice-go/test/natlab"
)

// A daemon that is killed and started again is back at once: the other side does not wait for anything to expire.
func TestKillAndRestart(t *testing.T) {
	_, na, nb := newPair(t, natlab.PortRestricted)
	na.up()
	nb.upAndPing(na)
	for _, c := range []struct{ victim, other *node }{{na, nb}, {nb, na}} {
		back, outage, lost := c.victim.killAndUp(c.other)
		t.Logf("%s killed (smaller key: %v): back %v after the new start, longest outage %v, %d pings lost",
			c.victim.name, c.victim.key.Public().Compare(c.other.key.Public()) < 0, back.Round(ms), outage.Round(ms), lost)
	}
}

// killAndUp kills the daemon while another node pings it, and starts it again. It returns the time from the start to the next
// answer, the longest time without one, and the number of pings lost.
func (n *node) killAndUp(other *node) (back, outage time.Duration, lost int) {
	n.w.t.Helper()
	stream := other.pingStream(n.addr)
	n.signal(syscall.SIGKILL)
	start := time.Now()
	n.up()
	stream.repliesAfter(10)
	lost, outage = stream.stop()
	for _, r := range stream.replies() {
		if r.at.After(start) {
			back = r.at.Sub(start)
			break
		}
	}
	return back, outage, lost
}

// Traffic does not need the rendezvous. When that comes back, signaling does too, by itself, and serves a third peer.
func TestRendezvousRestart(t *testing.T) {
	w := newWorld(t, natlab.Config{A: natlab.Site{NAT: natlab.PortRestricted}, B: natlab.Site{NAT: natlab.PortRestricted, Hosts: 2}})
	r := w.rendezvous()
	na, nb, nc := w.node(w.lab.A[0]), w.node(w.lab.B[0]), w.node(w.lab.B[1])
	join(na, nb, nc)
	na.up()
	nb.upAndPing(na)
	signaling := func(n *node, want bool) {
		t.Helper()
		w.until(patience, fmt.Sprintf("%s has signaling: %v", n.name, want), func() (bool, string) {
			s := n.status()
			return s.Signaling[0].Connected == want, fmt.Sprintf("%+v", s.Signaling)
		})
	}
	// A ping may get through before the end that answers has selected its path, for which it may need another offer.
	na.connected(nb)
	nb.connected(na)
	stream := na.pingStream(nb.addr)
	r.kill()
	signaling(na, false)
	signaling(nb, false)
	stream.repliesAfter(20)
	start := time.Now()
	again := r.start()
	if fmt.Sprint(again) != fmt.Sprint(w.signaling) {
		t.Errorf("the rendezvous prints %v after the restart, want the same as before, %v", again, w.signaling)
	}
	signaling(na, true)
	signaling(nb, true)
	back := time.Since(start)
	took := nc.upAndPing(na)
	lost, outage := stream.stop()
	t.Logf("signaling is back after %v; a third peer connects in %v; longest time between two answers %v", back.Round(ms), took.Round(ms), outage.Round(ms))
	if lost > 0 {
		t.Errorf("%d pings were lost:\n%s", lost, stream.text())
	}
	if p := na.connected(nb); p.Restarts != 0 {
		t.Errorf("the session that worked was restarted: %v", p)
	}
}

// A peer that has died is not called connected for long, and the reason says what is known.
func TestDeadPeer(t *testing.T) {
	_, na, nb := newPair(t, natlab.PortRestricted)
	na.up()
	nb.upAndPing(na)
	na.connected(nb)
	nb.signal(syscall.SIGKILL)
	start := time.Now()
	p := na.peerUntil(nb, "not connected", func(p peerStatus) bool { return p.State != "connected" })
	t.Logf("noticed after %v: %v", time.Since(start).Round(ms), p)
	if p.State != "connecting" && p.State != "failed" || !reasonHas("does not answer any more")(p) {
		t.Errorf("got %v, want connecting or failed, and that the peer does not answer any more", p)
	}
	expect(t, na.run(wiceGo(), "status", iface, "--check"), 4)
}

// Networks change under a tunnel that carries traffic: it comes back by itself.
func TestNetworkChanges(t *testing.T) {
	tests := []struct {
		name    string
		nat     natlab.NAT
		change  func(w *world)
		lasting bool // of the NAT's old mappings
	}{
		{"new public address", natlab.PortRestricted, func(w *world) { w.lab.SiteA.Rebind() }, false},
		{"new public ports", natlab.PortRestricted, func(w *world) { w.lab.SiteA.RebindPorts() }, false},
		{"new private address", natlab.PortRestricted, func(w *world) { w.lab.A[0].Renumber() }, true},
		{"mappings forgotten", natlab.PortRestricted, func(w *world) { w.lab.SiteA.Forget() }, false},
		{"cable pulled for 3 s", natlab.PortRestricted, func(w *world) {
			w.lab.SiteA.LinkDown()
			<-time.After(3 * time.Second)
			w.lab.SiteA.LinkUp()
		}, false},
		{"new public address, relayed", natlab.Symmetric, func(w *world) { w.lab.SiteA.Rebind() }, false},
		{"new private address, relayed", natlab.Symmetric, func(w *world) { w.lab.A[0].Renumber() }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, na, nb := newPair(t, tt.nat)
			na.up()
			nb.upAndPing(na)
			want := map[natlab.NAT]string{natlab.PortRestricted: "direct", natlab.Symmetric: "relay"}[tt.nat]
			by := func(p peerStatus) bool { return p.State == "connected" && p.Path.Kind == want }
			nb.peerUntil(na, "by a "+want+" path", by)
			stream := nb.pingStream(na.addr)
			tt.change(w)
			stream.repliesAfter(20)
			lost, outage := stream.stop()
			t.Logf("%s: longest outage %v, %d pings lost", tt.name, outage.Round(ms), lost)
			if tt.lasting {
				// The NAT keeps the mappings of the old address, and so has no port that is the same for all destinations: until they
				// have expired there may be a relay between.
				want, by = "any", func(p peerStatus) bool { return p.State == "connected" }
			}
			nb.peerUntil(na, "by "+want+" path again", by)
			na.peerUntil(nb, "by "+want+" path again", by)
		})
	}
}

// A relay that is gone is missed only until it is back.
func TestRelayRestart(t *testing.T) {
	w := newWorld(t, natlab.Config{A: natlab.Site{NAT: natlab.Symmetric}, B: natlab.Site{NAT: natlab.Symmetric}})
	r := w.rendezvous()
	na, nb := w.node(w.lab.A[0]), w.node(w.lab.B[0])
	join(na, nb)
	na.up()
	nb.upAndPing(na)
	stream := nb.pingStream(na.addr)
	r.kill()
	r.start()
	start := time.Now()
	stream.repliesAfter(20)
	_, outage := stream.stop()
	t.Logf("relay killed and started again: longest outage %v; %v after its start", outage.Round(ms), time.Since(start).Round(ms))

	// The same for a daemon behind a relay.
	stream = nb.pingStream(na.addr)
	na.signal(syscall.SIGKILL)
	start = time.Now()
	na.up()
	stream.repliesAfter(1)
	back := time.Since(start)
	_, outage = stream.stop()
	t.Logf("a0 killed: back %v after its start, longest outage %v", back.Round(ms), outage.Round(ms))
}
