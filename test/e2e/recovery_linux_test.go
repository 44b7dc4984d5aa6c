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
	w := newWorld(t, natlab.Config{A: natlab.Site{NAT: natlab.PortRestricted}, B: natlab.Site{NAT: natlab.PortRestricted}})
	w.rendezvous()
	na, nb := w.node(w.lab.A[0]), w.node(w.lab.B[0])
	join(na, nb)
	na.up()
	nb.upAndPing(na)
	for _, c := range []struct{ victim, other *node }{{na, nb}, {nb, na}} {
		stream := c.other.pingStream(c.victim.addr)
		c.victim.signal(syscall.SIGKILL)
		start := time.Now()
		c.victim.up()
		stream.repliesAfter(10)
		lost, outage := stream.stop()
		var back time.Duration
		for _, r := range stream.replies() {
			if r.at.After(start) {
				back = r.at.Sub(start)
				break
			}
		}
		t.Logf("%s killed (smaller key: %v): back %v after the new start, longest outage %v, %d pings lost",
			c.victim.name, c.victim.key.Public().Compare(c.other.key.Public()) < 0, back.Round(ms), outage.Round(ms), lost)
	}
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
