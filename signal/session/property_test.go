package session

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/wice-go/wice-go/proto"
)

// chaos is one thing that goes wrong, or that somebody does.
type chaos int

const (
	chaosStart chaos = iota
	chaosBoot
	chaosRestart
	chaosNetwork
	chaosServers
	chaosAvailable
	chaosSleep
	chaosCut
	chaosDataCut
	chaosKinds
)

func (w *sim) apply(c chaos, i int) {
	switch c {
	case chaosStart:
		w.step(i, Start{})
	case chaosBoot:
		w.boot(i)
		w.step(i, Start{})
	case chaosRestart:
		w.step(i, RestartRequested{})
	case chaosNetwork:
		w.step(i, NetworkChanged{})
	case chaosServers:
		w.step(i, ServersChanged{})
	case chaosAvailable:
		w.step(i, PeerAvailable{})
	case chaosSleep:
		w.step(i, Sleep{})
	case chaosCut:
		w.cut = !w.cut
	case chaosDataCut:
		w.dataCut = !w.dataCut
	}
}

// soon is how long the way to convergence may take once messages flow and the backends say so.
const soon = 6 * time.Second

// TestConverge: whatever is lost, repeated or reordered, and whoever restarts, once messages flow again both sides reach the same
// pair of session ids, are connected, and stay so.
func TestConverge(t *testing.T) {
	var longest time.Duration
	rapid.Check(t, func(t *rapid.T) {
		w := newSim(rapid.Uint64().Draw(t, "seed"), func(format string, args ...any) { t.Fatalf(format, args...) })
		w.loss = rapid.SampledFrom([]float64{0, 0.1, 0.3, 0.7}).Draw(t, "loss")
		w.delay = time.Duration(rapid.SampledFrom([]int{0, 50, 500, 8000}).Draw(t, "delay")) * time.Millisecond
		relayed := rapid.Bool().Draw(t, "relayed")
		w.relayed = relayed
		w.ordered = rapid.Bool().Draw(t, "ordered")
		w.step(rapid.IntRange(0, 1).Draw(t, "first"), Start{})
		for range rapid.OneOf(rapid.IntRange(0, 12), rapid.IntRange(0, 80)).Draw(t, "events") {
			w.run(w.now.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 10, 100, 400, 1000, 5000, 30000}).Draw(t, "wait"))*time.Millisecond), nil)
			w.apply(chaos(rapid.IntRange(0, int(chaosKinds)-1).Draw(t, "what")), rapid.IntRange(0, 1).Draw(t, "side"))
		}
		// The trouble ends; what is still under way arrives all the same.
		w.loss, w.delay, w.cut, w.dataCut, w.relayed = 0, 100*time.Millisecond, false, false, false
		w.step(0, Start{})
		w.step(1, Start{})
		began, limit := w.now, 2*time.Minute // back-offs of a minute
		if !w.ordered {
			for _, f := range w.flying {
				if f.at.After(began) {
					began = f.at // an offer from long ago, never seen before, looks like a new session
				}
			}
		}
		if rapid.Bool().Draw(t, "backends tell") {
			w.step(0, PeerAvailable{})
			w.step(1, PeerAvailable{})
			limit = soon
		}
		if !w.run(began.Add(limit), w.converged) {
			t.Fatalf("not converged\n%s", w.trace())
		}
		longest = max(longest, w.now.Sub(began))
		settle := 2 * time.Minute // a last ghost, a last restart that had to wait
		if relayed {
			settle = relayRetryMax * 6 / 5
		}
		w.run(w.now.Add(settle), nil)
		w.sent = 0
		ids := func() [2]string { a, b := w.nodes[0].m.IDs(); return [2]string{a.String(), b.String()} }
		before := ids()
		w.run(w.now.Add(3*time.Minute), nil)
		if !w.converged() || ids() != before || w.sent > 0 {
			t.Fatalf("not stable: %d messages, %v -> %v\n%s", w.sent, before, ids(), w.trace())
		}
	})
	t.Logf("longest way to convergence: %v", longest)
}

// TestConvergeAtOnce: without trouble the first session connects, whatever order the sides start in.
func TestConvergeAtOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newSim(rapid.Uint64().Draw(t, "seed"), func(format string, args ...any) { t.Fatalf(format, args...) })
		w.delay = time.Duration(rapid.IntRange(0, 200).Draw(t, "delay")) * time.Millisecond
		w.step(0, Start{})
		if rapid.Bool().Draw(t, "both") {
			w.run(w.now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "later"))*time.Millisecond), nil)
			w.step(1, Start{})
		}
		if !w.run(w.now.Add(3*time.Second), w.converged) {
			t.Fatalf("not converged\n%s", w.trace())
		}
		if r := w.nodes[0].m.Restarts() + w.nodes[1].m.Restarts(); r != 0 {
			t.Fatalf("%d restarts\n%s", r, w.trace())
		}
	})
}

// TestAnyOffers: whatever a peer sends, the machine keeps its bounds.
func TestAnyOffers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newSim(rapid.Uint64().Draw(t, "seed"), func(format string, args ...any) { t.Fatalf(format, args...) })
		n := w.nodes[0]
		for range rapid.IntRange(1, 60).Draw(t, "offers") {
			w.run(w.now.Add(time.Duration(rapid.SampledFrom([]int{0, 10, 1000, 30000}).Draw(t, "wait"))*time.Millisecond), nil)
			o := from(byte(rapid.IntRange(0, 5).Draw(t, "id")), sid(byte(rapid.IntRange(0, 5).Draw(t, "rid"))),
				uint32(rapid.IntRange(0, 3).Draw(t, "version")), rapid.IntRange(0, 2).Draw(t, "candidates"))
			if rapid.Bool().Draw(t, "knows our id") {
				o.Offer.RID, _ = n.m.IDs()
			}
			if rapid.IntRange(0, 9).Draw(t, "idle") == 0 {
				o.Offer.Features = []string{featureIdle}
			}
			before := n.m.generation
			w.step(0, o)
			if n.m.generation > before+1 || len(n.m.replaced) > maxReplaced {
				t.Fatalf("%d sessions for an offer, %d ids remembered", n.m.generation-before, len(n.m.replaced))
			}
		}
	})
}

// TestMadPeer: a peer that does its worst to start agents gets few of them.
func TestMadPeer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newSim(rapid.Uint64().Draw(t, "seed"), func(format string, args ...any) { t.Fatalf(format, args...) })
		n, began := w.nodes[0], w.now
		pause := time.Duration(rapid.SampledFrom([]int{100, 400, 1600}).Draw(t, "pause")) * time.Millisecond
		id := byte(0)
		for range 60 {
			if rapid.IntRange(0, 3).Draw(t, "new id") > 0 {
				id++
			}
			o := from(id, proto.SessionID{}, uint32(rapid.IntRange(0, 1).Draw(t, "version")), rapid.IntRange(0, 1).Draw(t, "candidates"))
			if rapid.IntRange(0, 3).Draw(t, "knows our id") > 0 {
				o.Offer.RID, _ = n.m.IDs()
			}
			w.step(0, o)
			w.run(w.now.Add(pause), nil)
		}
		if most := peerRestarts + 2 + int(w.now.Sub(began)/doubtAfter); int(n.m.generation) > most {
			t.Fatalf("%d sessions in %v, want at most %d", n.m.generation, w.now.Sub(began), most)
		}
	})
}
