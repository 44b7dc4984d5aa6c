package session

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/wice-go/wice-go/proto"
)

// bench is one machine and what it did, as short words.
type bench struct {
	t    *testing.T
	m    *Machine
	now  time.Time
	last *proto.Offer // sent last
}

func newBench(t *testing.T) *bench {
	return &bench{t: t, m: NewMachine(rand.NewChaCha8([32]byte{7}), false), now: time.Unix(1_800_000_000, 0)}
}

// do steps the machine and describes its actions.
func (b *bench) do(ev Event) string {
	var words []string
	for _, a := range b.m.Step(b.now, ev) {
		switch a := a.(type) {
		case SendOffer:
			b.last = a.Offer
			words = append(words, fmt.Sprintf("send %d", a.Offer.Version))
		case StartAgent:
			words = append(words, fmt.Sprintf("start %d with %s", a.Generation, a.RemoteUfrag))
		case AddCandidates:
			words = append(words, fmt.Sprintf("add %d", len(a.Candidates)))
		case CloseAgent:
			words = append(words, fmt.Sprintf("close %d", a.Generation))
		case UsePath:
			words = append(words, fmt.Sprintf("use %d", a.Generation))
		case DropPath:
			words = append(words, "drop")
		}
	}
	return strings.Join(words, ", ")
}

func (b *bench) want(ev Event, want string) {
	b.t.Helper()
	if got := b.do(ev); got != want {
		b.t.Fatalf("%T %+v: got %q, want %q", ev, ev, got, want)
	}
}

// wait lets time pass, with a tick each time the machine wants one.
func (b *bench) wait(d time.Duration) string {
	var words []string
	end := b.now.Add(d)
	for {
		next := b.m.Next()
		if next.IsZero() || next.After(end) {
			break
		}
		b.now = next
		if w := b.do(Tick{}); w != "" {
			words = append(words, w)
		}
	}
	b.now = end
	return strings.Join(words, ", ")
}

func sid(b byte) (id proto.SessionID) { id[0] = b; return id }

// from makes an offer of the peer's session x, with n candidates.
func from(x byte, rid proto.SessionID, version uint32, n int) OfferReceived {
	return OfferReceived{&proto.Offer{ID: sid(x), RID: rid, Version: version, Ufrag: fmt.Sprint("u", x), Pwd: "p",
		Candidates: make([]proto.Candidate, n)}}
}

func (b *bench) id() proto.SessionID { id, _ := b.m.IDs(); return id }

// connect brings a fresh machine to a connection with the peer's session x.
func (b *bench) connect(x byte) {
	b.t.Helper()
	b.want(Start{}, "send 0")
	b.want(from(x, b.id(), 0, 0), fmt.Sprintf("start 1 with u%d", x))
	b.wait(coalesce)
	b.want(AgentConnected{Generation: 1}, "use 1")
}

func TestSequence(t *testing.T) { // the one who begins
	b := newBench(t)
	b.want(Start{}, "send 0")
	if b.last.RID != (proto.SessionID{}) || b.last.ID.IsZero() || len(b.last.Ufrag) < 4 || len(b.last.Pwd) < 22 {
		t.Fatalf("first offer: %+v", b.last)
	}
	b.want(Start{}, "")
	b.want(from(9, b.id(), 0, 0), "start 1 with u9")
	b.want(CandidatesGathered{Generation: 1, Candidates: make([]proto.Candidate, 1)}, "")
	b.want(CandidatesGathered{Generation: 1, Candidates: []proto.Candidate{{Priority: 2}}}, "")
	if got := b.wait(coalesce); got != "send 1" || len(b.last.Candidates) != 2 || b.last.EOC || b.last.RID != sid(9) {
		t.Fatalf("got %q, %+v", got, b.last)
	}
	b.want(CandidatesGathered{Generation: 1, EOC: true}, "")
	if got := b.wait(coalesce); got != "send 2" || len(b.last.Candidates) != 2 || !b.last.EOC {
		t.Fatalf("got %q, %+v", got, b.last)
	}
	b.want(CandidatesGathered{Generation: 7, Candidates: make([]proto.Candidate, 1)}, "") // of no agent of ours
	b.want(from(9, b.id(), 1, 1), "add 1")
	b.want(AgentConnected{Generation: 1}, "use 1")
	if got := b.wait(time.Hour); got != "" {
		t.Errorf("a connected machine does %q", got)
	}
}

func TestAnswering(t *testing.T) { // rule 3: the other one waits for candidates
	b := newBench(t)
	b.want(from(9, proto.SessionID{}, 0, 0), "send 0")
	if b.last.RID != sid(9) {
		t.Fatalf("the answer does not name the peer's id: %+v", b.last)
	}
	b.want(from(9, b.id(), 1, 1), "start 1 with u9, add 1")

	b = newBench(t) // but not for ever
	b.want(from(9, proto.SessionID{}, 0, 0), "send 0")
	b.want(from(9, b.id(), 1, 0), "")
	if got := b.wait(startWait); !strings.Contains(got, "start 1 with u9") {
		t.Errorf("got %q", got)
	}

	b = newBench(t) // and the end of candidates will do
	b.want(from(9, proto.SessionID{}, 0, 0), "send 0")
	o := from(9, b.id(), 1, 0)
	o.Offer.EOC = true
	b.want(o, "start 1 with u9")
}

func TestCredentialsComeLate(t *testing.T) { // an offer without candidates may lack them
	b := newBench(t)
	b.want(Start{}, "send 0")
	o := from(9, b.id(), 0, 0)
	o.Offer.Ufrag, o.Offer.Pwd = "", ""
	b.want(o, "send 1")
	if got := b.wait(2 * startWait); strings.Contains(got, "start") {
		t.Fatalf("got %q without credentials", got)
	}
	b.want(from(9, b.id(), 1, 1), "start 1 with u9, add 1")
}

func TestAnswerDoesNotRestart(t *testing.T) { // rule 1
	b := newBench(t)
	b.connect(9)
	b.now = b.now.Add(time.Minute)
	id := b.id()
	b.want(from(9, b.id(), 1, 1), "add 1")
	b.want(from(8, proto.SessionID{}, 1, 1), "send 1") // another id, not version 0: it is shown where we are
	if b.id() != id {
		t.Fatal("restarted")
	}
	b.want(from(8, proto.SessionID{}, 0, 0), "send 0")
	if b.id() == id || b.last.RID != sid(8) || b.m.Restarts() != 1 {
		t.Fatalf("not restarted: %+v", b.last)
	}
	b.want(from(9, id, 2, 2), "") // rule 5: replaced
	b.want(from(8, b.id(), 1, 1), "start 2 with u8, add 1")
}

func TestAnswerToBoundID(t *testing.T) { // the exception to rule 1
	b := newBench(t)
	b.connect(9)
	id := b.id()
	b.want(from(8, id, 0, 0), "send 0")
	if b.id() == id || b.last.RID != sid(8) {
		t.Fatalf("got %+v", b.last)
	}
}

func TestSimultaneousStart(t *testing.T) { // rule 2
	b := newBench(t)
	b.want(Start{}, "send 0")
	id := b.id()
	b.want(from(9, proto.SessionID{}, 0, 0), "send 1")
	if b.id() != id || b.last.RID != sid(9) {
		t.Fatalf("got %+v", b.last)
	}
	b.want(from(9, id, 1, 0), "start 1 with u9")
}

func TestResend(t *testing.T) { // rule 4
	b := newBench(t)
	b.want(Start{}, "send 0")
	var gaps []time.Duration
	for range 12 {
		before := b.now
		b.now = b.m.Next()
		b.want(Tick{}, "send 0")
		gaps = append(gaps, b.now.Sub(before))
	}
	want := resendFirst
	for i, g := range gaps {
		if g < want*4/5 || g > min(want*6/5, resendMax) {
			t.Errorf("gap %d: got %v, want about %v", i, g, want)
		}
		want = min(2*want, resendMax)
	}
	b.now = b.now.Add(time.Second)
	b.want(PeerAvailable{}, "send 0") // at once, and often again
	if next := b.m.Next().Sub(b.now); next > resendFirst*6/5 {
		t.Errorf("the next one after %v", next)
	}
	b.now = b.now.Add(10 * time.Second)
	b.want(Tick{}, "send 0")
	b.want(from(9, b.id(), 0, 0), "start 1 with u9") // acknowledged, but a later version may be lost too
	if got := b.wait(time.Minute); !strings.HasPrefix(got, "send 1, send 1") {
		t.Errorf("got %q", got)
	}
}

func TestOrder(t *testing.T) { // rule 5
	b := newBench(t)
	b.connect(9)
	b.want(from(9, b.id(), 3, 3), "add 3")
	b.want(from(9, b.id(), 2, 2), "")
	b.want(from(9, b.id(), 3, 3), "")
	b.now = b.now.Add(time.Minute)
	b.want(from(9, b.id(), 3, 3), "send 1") // it sends that again: it lacks our last offer
	b.want(from(9, b.id(), 3, 3), "")       // but not each time
	for x := byte(10); x < 200; x++ {
		b.now = b.now.Add(peerRestartCost)
		b.do(from(x, proto.SessionID{}, 0, 0))
		b.do(from(x, b.id(), 1, 1))
	}
	if len(b.m.replaced) != maxReplaced {
		t.Errorf("got %d ids remembered, want %d", len(b.m.replaced), maxReplaced)
	}
}

func TestMakeBeforeBreak(t *testing.T) { // rule 6
	b := newBench(t)
	b.connect(9)
	b.now = b.now.Add(time.Minute)
	b.want(RestartRequested{}, "send 0")
	b.want(from(8, b.id(), 0, 0), "start 2 with u8")
	b.wait(coalesce)
	b.want(AgentConnected{Generation: 2}, "use 2, close 1")

	// The old path fails first.
	b.now = b.now.Add(time.Minute)
	b.want(AgentDisconnected{Generation: 2}, "send 0")
	b.want(AgentFailed{Generation: 2}, "drop, close 2")
	b.want(from(7, b.id(), 0, 0), "start 3 with u7")
	b.want(AgentConnected{Generation: 3}, "use 3")
}

func TestFailedAgentRestarts(t *testing.T) {
	b := newBench(t)
	b.want(Start{}, "send 0")
	b.want(from(9, b.id(), 0, 0), "start 1 with u9")
	b.now = b.now.Add(24 * time.Second)
	b.want(AgentFailed{Generation: 1}, "close 1, send 0")
	if b.last.RID != (proto.SessionID{}) {
		t.Errorf("a restart names the old session: %+v", b.last)
	}
	b.want(AgentFailed{Generation: 1}, "") // known already
}

func TestOwnRestartsArePaced(t *testing.T) {
	b := newBench(t)
	b.connect(9)
	peer := byte(10)
	begun := 0
	for range 600 { // ten minutes of constant network changes
		b.now = b.now.Add(time.Second)
		id := b.id()
		b.do(NetworkChanged{})
		if b.id() != id {
			begun++
			b.do(from(peer, b.id(), 0, 0))
			peer++
		}
	}
	if begun < 5 || begun > 20 {
		t.Errorf("got %d restarts in ten minutes", begun)
	}
}

func TestNoBackoffAfterChange(t *testing.T) {
	for _, ev := range []Event{PeerAvailable{}, NetworkChanged{}} {
		b := newBench(t)
		b.connect(9)
		for g := uint64(1); g < 6; g++ { // the back-off is half a minute by now
			for b.do(AgentFailed{Generation: g}); b.m.Generation() == g; b.do(Tick{}) {
				b.now = b.m.Next()
			}
			b.do(from(byte(9+g), b.id(), 0, 0))
		}
		b.want(AgentFailed{Generation: 6}, "close 6")
		if next := b.m.Next().Sub(b.now); next < 5*time.Second {
			t.Fatalf("next restart after %v: there is no back-off to end", next)
		}
		b.do(ev)
		if got := b.wait(restartFirst); !strings.HasPrefix(got, "send 0") {
			t.Errorf("%T: got %q, want a new session", ev, got)
		}
	}
}

// Whatever misled one side: if the peer is in another session for a while, a new one begins. Answers to ours end the doubt.
func TestDoubt(t *testing.T) {
	b := newBench(t)
	b.want(Start{}, "send 0")
	b.want(from(9, b.id(), 0, 0), "start 1 with u9")
	id := b.id()
	b.do(from(8, sid(77), 3, 1)) // the peer is in a session that we never heard of
	b.do(from(9, b.id(), 1, 1))  // no, it was an old offer
	b.wait(2 * doubtAfter)
	if b.id() != id {
		t.Fatal("a new session, although the peer answers ours")
	}
	b.do(from(9, sid(77), 2, 1)) // what we took for an answer was for an old session of ours: this can't become a connection
	b.wait(2 * doubtAfter)
	if b.id() == id || b.last.Version != 0 || b.last.RID != (proto.SessionID{}) {
		t.Fatalf("no new session: %+v", b.last)
	}

	b = newBench(t)
	b.connect(9)
	id = b.id()
	b.do(from(8, sid(77), 3, 1))
	b.wait(2 * doubtAfter)
	if b.id() != id {
		t.Fatal("an offer from nowhere ended a connection")
	}
}

// One side is connected, the other waits for an answer to an id that the former has never seen with version 0. It hears the former's
// offers of a session that is over.
func TestDoubtWhileUnbound(t *testing.T) {
	b := newBench(t)
	b.connect(9)
	b.want(from(8, sid(77), 0, 0), "send 0") // an old offer, never seen before
	id := b.id()
	b.do(from(9, sid(78), 5, 1)) // the peer is where we were
	b.wait(2 * doubtAfter)
	if b.id() == id || b.last.RID != (proto.SessionID{}) {
		t.Fatalf("no new session: %+v", b.last)
	}
}

func TestPeerRestartsArePaced(t *testing.T) {
	b := newBench(t)
	b.connect(9)
	ids := map[proto.SessionID]bool{}
	var x uint16
	for range 600 { // a minute of ten new sessions each second
		b.now = b.now.Add(100 * time.Millisecond)
		x++
		o := from(0, proto.SessionID{}, 0, 0)
		o.Offer.ID = proto.SessionID{1, byte(x), byte(x >> 8)}
		b.do(o)
		b.do(from(0, b.id(), 0, 0))
		a := from(0, b.id(), 1, 1)
		a.Offer.ID = o.Offer.ID
		b.do(a)
		ids[b.id()] = true
	}
	if got := len(ids); got < peerRestarts || got > peerRestarts+22 {
		t.Errorf("got %d sessions in a minute", got)
	}
	// The newest one is not forgotten.
	b.wait(peerRestartCost)
	if _, remote := b.m.IDs(); remote != (proto.SessionID{1, byte(x), byte(x >> 8)}) {
		t.Errorf("got %v, want the newest", remote)
	}
}

func TestRelayRetry(t *testing.T) {
	b := newBench(t)
	b.want(Start{}, "send 0")
	want := relayRetryFirst
	for g := uint64(1); g < 12; g++ {
		b.want(from(byte(g), b.id(), 0, 0), fmt.Sprintf("start %d with u%d", g, g))
		b.wait(coalesce)
		b.do(AgentConnected{Generation: g, Relayed: true, Improvable: true})
		since, id := b.now, b.id()
		for b.id() == id {
			b.now = b.m.Next()
			b.do(Tick{})
		}
		if got := b.now.Sub(since); got < want*4/5 || got > want*6/5 {
			t.Errorf("try %d: after %v, want about %v", g, got, want)
		}
		want = min(2*want, relayRetryMax)
	}
}

func TestServersChanged(t *testing.T) {
	b := newBench(t)
	b.connect(9)
	b.now = b.now.Add(time.Minute)
	b.want(ServersChanged{}, "") // a direct path needs none

	b = newBench(t)
	b.want(Start{}, "send 0")
	b.want(from(9, b.id(), 0, 0), "start 1 with u9")
	b.want(ServersChanged{}, "close 1, send 0")

	b = newBench(t)
	b.want(Start{}, "send 0")
	b.want(from(9, b.id(), 0, 0), "start 1 with u9")
	b.wait(coalesce)
	b.want(AgentConnected{Generation: 1, Relayed: true}, "use 1")
	b.want(ServersChanged{}, "send 0") // the relay's credentials may have been replaced
}

func TestSleep(t *testing.T) {
	b := newBench(t)
	b.connect(9)
	id := b.id()
	b.want(Sleep{}, "send 2, drop, close 1")
	if !b.m.Next().IsZero() || b.m.Generation() != 0 || b.last.Features[0] != featureIdle {
		t.Errorf("not asleep: %+v", b.last)
	}
	b.want(from(9, id, 5, 1), "") // a late one does not wake it
	b.want(from(8, proto.SessionID{}, 0, 0), "send 0")

	b = newBench(t)
	b.connect(9)
	b.want(LazySet{true}, "")
	o := from(9, b.id(), 5, 1)
	o.Offer.Features = []string{featureIdle}
	b.want(o, "drop, close 1")
}

func TestCandidatesAreBounded(t *testing.T) {
	b := newBench(t)
	b.want(Start{}, "send 0")
	b.want(from(9, b.id(), 0, 0), "start 1 with u9")
	for i := range uint32(100) {
		b.do(CandidatesGathered{Generation: 1, Candidates: []proto.Candidate{{Priority: i}}})
	}
	b.wait(coalesce)
	if got := len(b.last.Candidates); got != maxLocalCandidates {
		t.Errorf("got %d candidates, want %d", got, maxLocalCandidates)
	}
}
