package session

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/wice-go/wice-go/proto"
)

// sim is a world in simulated time: two machines, a model of their agents, and a channel between them.
type sim struct {
	now      time.Time
	rng      *rand.Rand
	nodes    [2]*simNode
	flying   []simMessage
	loss     float64
	delay    time.Duration // at most
	cut      bool          // no signaling
	dataCut  bool          // no packets
	relayed  bool          // pairs are relayed
	ordered  bool          // what is older than what came already is dropped, as the router does by the timestamps
	fail     func(format string, args ...any)
	sent     int // since a test set it to zero
	messages int
	events   []simNote
}

type simMessage struct {
	at    time.Time
	sent  int // its number
	to    int
	offer *proto.Offer
}

type simNode struct {
	m      *Machine
	rand   *rand.ChaCha8
	agents map[uint64]*simAgent
	path   uint64
	latest int // number of the newest message that came
}

// simAgent behaves as pion's does: it is connected when its counterpart runs, notices after a while that it does not, and gives up.
type simAgent struct {
	StartAgent
	started, heard time.Time
	connected      bool
	down           bool
	gathered       int
	remotes        int
	closeAt        time.Time
}

func newSim(seed uint64, fail func(string, ...any)) *sim {
	w := &sim{now: time.Unix(1_800_000_000, 0), rng: rand.New(rand.NewPCG(seed, 1)), fail: fail}
	for i := range w.nodes {
		w.nodes[i] = &simNode{}
		w.boot(i)
	}
	return w
}

// boot is a process that starts without memory; what ran before ends without a word.
func (w *sim) boot(i int) {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], w.rng.Uint64())
	n := w.nodes[i]
	n.rand = rand.NewChaCha8(seed)
	n.m, n.agents, n.path, n.latest = NewMachine(n.rand, false), map[uint64]*simAgent{}, 0, 0
	w.note("%d boots", i)
}

// simNote is one line of the trace, formatted only if a test fails.
type simNote struct {
	at     time.Time
	format string
	args   []any
}

func (w *sim) note(format string, args ...any) {
	w.events = append(w.events, simNote{w.now, format, args})
}

// trace returns what happened last.
func (w *sim) trace() string {
	var b strings.Builder
	for _, n := range w.events[max(0, len(w.events)-200):] {
		fmt.Fprintf(&b, "%8.3f "+n.format+"\n", append([]any{float64(n.at.UnixMilli()%1_000_000) / 1000}, n.args...)...)
	}
	return b.String()
}

func (w *sim) step(i int, ev Event) {
	n := w.nodes[i]
	switch ev := ev.(type) {
	case Tick:
	case OfferReceived:
		w.note("%d gets %s", i, brief{ev.Offer})
	default:
		w.note("%d gets %T", i, ev)
	}
	for _, a := range n.m.Step(w.now, ev) {
		if o, ok := a.(SendOffer); ok {
			w.note("%d sends %s", i, brief{o.Offer})
		} else {
			w.note("%d wants %T", i, a)
		}
		switch a := a.(type) {
		case SendOffer:
			w.send(1-i, a.Offer)
		case StartAgent:
			if n.agents[a.Generation] != nil || a.LocalUfrag == "" || a.RemoteUfrag == "" {
				w.fail("bad start: %+v", a)
			}
			n.agents[a.Generation] = &simAgent{StartAgent: a, started: w.now, heard: w.now}
		case AddCandidates:
			n.agents[a.Generation].remotes += len(a.Candidates)
		case CloseAgent:
			ag := n.agents[a.Generation]
			if ag == nil {
				w.fail("%d closes agent %d, which is not there", i, a.Generation)
			} else if a.Grace > 0 {
				ag.closeAt = w.now.Add(a.Grace)
			} else {
				delete(n.agents, a.Generation)
			}
		case UsePath:
			if ag := n.agents[a.Generation]; ag == nil || !ag.connected {
				w.fail("%d uses a path that is not there", i)
			}
			n.path = a.Generation
		case DropPath:
			n.path = 0
		}
	}
	open := 0
	for _, ag := range n.agents {
		if ag.closeAt.IsZero() {
			open++
		}
	}
	if open > 2 {
		w.fail("%d has %d agents", i, open)
	}
	if n.path != 0 && n.agents[n.path] == nil {
		w.fail("%d has no agent for its path", i)
	}
}

func (w *sim) send(to int, o *proto.Offer) {
	w.sent++
	w.messages++
	if o.Version == 0 && (len(o.Candidates) > 0 || o.EOC) {
		w.fail("version 0 has candidates")
	}
	if w.cut || w.rng.Float64() < w.loss {
		return
	}
	for {
		w.flying = append(w.flying, simMessage{w.now.Add(time.Millisecond + time.Duration(w.rng.Int64N(int64(w.delay)+1))), w.messages, to, o})
		if w.rng.Float64() >= w.loss {
			return
		}
	}
}

// match finds the running counterpart of an agent.
func (w *sim) match(i int, ag *simAgent) *simAgent {
	for _, other := range w.nodes[1-i].agents {
		if other.LocalUfrag == ag.RemoteUfrag && other.RemoteUfrag == ag.LocalUfrag && other.LocalPwd == ag.RemotePwd && other.RemotePwd == ag.LocalPwd {
			return other
		}
	}
	return nil
}

// agentStep lets an agent do what is due; it returns when the next thing is.
func (w *sim) agentStep(i int, g uint64, ag *simAgent) time.Time {
	if !ag.closeAt.IsZero() && !w.now.Before(ag.closeAt) {
		delete(w.nodes[i].agents, g)
		return time.Time{}
	}
	gatherAt := []time.Duration{time.Millisecond, 5 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond}
	if ag.gathered < len(gatherAt) && !w.now.Before(ag.started.Add(gatherAt[ag.gathered])) {
		ag.gathered++
		ev := CandidatesGathered{Generation: g, EOC: ag.gathered == len(gatherAt)}
		if !ev.EOC {
			ev.Candidates = []proto.Candidate{{Priority: uint32(ag.gathered)}}
		}
		w.step(i, ev)
		return w.now
	}
	other := w.match(i, ag)
	if other != nil && !w.dataCut && (ag.connected || ag.remotes+other.remotes > 0 && !w.now.Before(ag.started.Add(300*time.Millisecond)) && !w.now.Before(other.started.Add(300*time.Millisecond))) {
		ag.heard = w.now
		if !ag.connected || ag.down {
			ag.connected, ag.down = true, false
			w.step(i, AgentConnected{g, w.relayed, w.relayed})
			return w.now
		}
	}
	silent := w.now.Sub(ag.heard)
	switch {
	case silent > disconnectedTimeout+failedTimeout:
		w.step(i, AgentFailed{g})
		delete(w.nodes[i].agents, g)
		return w.now
	case silent > disconnectedTimeout && ag.connected && !ag.down:
		ag.down = true
		w.step(i, AgentDisconnected{g})
		return w.now
	}
	if ag.connected && other != nil && !w.dataCut {
		return w.now.Add(2 * time.Second)
	}
	return w.now.Add(100 * time.Millisecond)
}

// run lets the world go on until the time or until stop says so.
func (w *sim) run(until time.Time, stop func() bool) bool {
	for w.now.Before(until) {
		if stop != nil && stop() {
			return true
		}
		next := until
		for i := 0; i < len(w.flying); i++ {
			f := w.flying[i]
			if !f.at.After(w.now) {
				w.flying = slices.Delete(w.flying, i, i+1)
				i--
				if n := w.nodes[f.to]; !w.ordered || f.sent > n.latest {
					n.latest = max(n.latest, f.sent)
					c := *f.offer
					w.step(f.to, OfferReceived{&c})
				}
				continue
			}
			if f.at.Before(next) {
				next = f.at
			}
		}
		for i, n := range w.nodes {
			for _, g := range sortedKeys(n.agents) {
				if n.agents[g] == nil {
					continue // closed by what another one did
				}
				if t := w.agentStep(i, g, n.agents[g]); !t.IsZero() && t.Before(next) {
					next = t
				}
			}
			if t := n.m.Next(); !t.IsZero() && !t.After(w.now) {
				w.step(i, Tick{})
			}
			if t := n.m.Next(); !t.IsZero() && t.Before(next) {
				next = t
			}
		}
		for _, f := range w.flying {
			if f.at.Before(next) {
				next = f.at
			}
		}
		if next.After(w.now) {
			w.now = next
		} else {
			w.now = w.now.Add(time.Millisecond)
		}
	}
	return stop != nil && stop()
}

func sortedKeys(m map[uint64]*simAgent) []uint64 {
	var ks []uint64
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}

// converged reports whether both sides are connected with the same pair of ids, and use it.
func (w *sim) converged() bool {
	a, b := w.nodes[0], w.nodes[1]
	al, ar := a.m.IDs()
	bl, br := b.m.IDs()
	return a.m.Connected() && b.m.Connected() && al == br && ar == bl &&
		a.path == a.m.Generation() && b.path == b.m.Generation() && w.match(0, a.agents[a.path]) == b.agents[b.path]
}

// brief prints an offer for a trace.
type brief struct{ *proto.Offer }

func (o brief) String() string {
	return fmt.Sprintf("%.6s for %.6s, version %d, %d candidates", o.ID, o.RID, o.Version, len(o.Candidates))
}
