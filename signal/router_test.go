package signal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeBackend does with an envelope what the test says.
type fakeBackend struct {
	name    string
	publish func(ctx context.Context, to key.Public, envelope []byte) error
	closing func() error
	servers []proto.ICEServer

	mu     sync.Mutex // guards the following
	peers  []key.Public
	closed int
}

func (b *fakeBackend) Publish(ctx context.Context, to key.Public, envelope []byte) error {
	return b.publish(ctx, to, envelope)
}

func (b *fakeBackend) SetPeers(peers []key.Public) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.peers = peers
}

func (b *fakeBackend) Status() Status { return Status{Backend: b.name, Connected: true} }

func (b *fakeBackend) ICEServers() []proto.ICEServer { return b.servers }

func (b *fakeBackend) Close() error {
	b.mu.Lock()
	b.closed++
	b.mu.Unlock()
	if b.closing != nil {
		return b.closing()
	}
	return nil
}

var _ ICEServerSource = (*fakeBackend)(nil)

// received is an offer that a router passed on.
type received struct {
	from  key.Public
	offer *proto.Offer
}

// receiver is a router that has one peer and keeps what it passes on. Its methods belong into a synctest bubble.
type receiver struct {
	*Router
	peer key.Private
	seal *sealer // the peer's
	log  *bytes.Buffer
	to   key.Public

	mu     sync.Mutex // guards the following
	offers []received
}

func newReceiver(t *testing.T) *receiver {
	identity := key.NewPrivate()
	r := &receiver{peer: key.NewPrivate(), log: new(bytes.Buffer), to: identity.Public()}
	r.seal = newSealer(r.peer)
	r.Router = NewRouter(RouterOptions{
		Identity: identity,
		Logger:   slog.New(slog.NewTextHandler(r.log, nil)),
		OnOffer: func(from key.Public, o *proto.Offer) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.offers = append(r.offers, received{from, o})
		},
	})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	r.SetPeers([]key.Public{r.peer.Public()})
	return r
}

// envelope is what the sealer's owner would send with offer number n at second n.
func (r *receiver) envelope(t *testing.T, from *sealer, n int) []byte {
	t.Helper()
	payload, err := offer(uint32(n)).Marshal(proto.TimestampOf(time.Unix(int64(n), 0)))
	if err != nil {
		t.Fatal(err)
	}
	return r.sealed(t, from, payload)
}

func (r *receiver) sealed(t *testing.T, from *sealer, payload []byte) []byte {
	t.Helper()
	b, err := from.seal(r.to, payload)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func offer(version uint32) *proto.Offer {
	return &proto.Offer{ID: proto.SessionID{1}, Version: version}
}

// versions are those of the offers that were passed on.
func (r *receiver) versions() []uint32 {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	var v []uint32
	for _, o := range r.offers {
		v = append(v, o.offer.Version)
	}
	return v
}

// check compares the offers passed on and all counters of drops.
func (r *receiver) check(t *testing.T, versions []uint32, dropped map[DropReason]uint64) {
	t.Helper()
	if got := r.versions(); !slices.Equal(got, versions) {
		t.Errorf("got offers %v, want %v", got, versions)
	}
	s := r.Stats()
	maps.DeleteFunc(s.Dropped, func(_ DropReason, n uint64) bool { return n == 0 })
	if !maps.Equal(s.Dropped, dropped) {
		t.Errorf("got drops %v, want %v", s.Dropped, dropped)
	}
	if s.Accepted != uint64(len(versions)) {
		t.Errorf("got %d accepted, want %d", s.Accepted, len(versions))
	}
}

func TestReceive(t *testing.T) {
	for _, c := range []struct {
		name    string
		deliver func(*testing.T, *receiver)
		want    []uint32
		dropped map[DropReason]uint64
	}{
		{"accepted", func(t *testing.T, r *receiver) { r.Deliver(r.envelope(t, r.seal, 1)) }, []uint32{1}, nil},
		{"oversize", func(t *testing.T, r *receiver) { r.Deliver(make([]byte, proto.MaxEnvelopeSize+1)) }, nil, map[DropReason]uint64{DropOversize: 1}},
		{"malformed", func(t *testing.T, r *receiver) {
			r.Deliver(nil)
			r.Deliver([]byte("hello"))
			e := r.envelope(t, r.seal, 1)
			r.Deliver(e[:len(e)-1])
		}, nil, map[DropReason]uint64{DropMalformed: 3}},
		{"forged", func(t *testing.T, r *receiver) {
			e := r.envelope(t, r.seal, 1)
			e[len(e)-1] ^= 1
			r.Deliver(e)
		}, nil, map[DropReason]uint64{DropForged: 1}},
		{"wrong recipient", func(t *testing.T, r *receiver) {
			e, err := r.seal.seal(key.NewPrivate().Public(), []byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			r.Deliver(e)
		}, nil, map[DropReason]uint64{DropOtherRecipient: 1}},
		{"redirected", func(t *testing.T, r *receiver) { // sealed for another, with our address written on it
			b, err := r.seal.seal(key.NewPrivate().Public(), []byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			e, err := proto.UnmarshalEnvelope(b)
			if err != nil {
				t.Fatal(err)
			}
			e.Recipient = r.to
			if b, err = e.Marshal(); err != nil {
				t.Fatal(err)
			}
			r.Deliver(b)
		}, nil, map[DropReason]uint64{DropForged: 1}},
		{"unknown sender", func(t *testing.T, r *receiver) {
			r.Deliver(r.sealed(t, newSealer(key.NewPrivate()), []byte("not even an offer")))
		}, nil, map[DropReason]uint64{DropUnknownSender: 1}},
		{"reflected", func(t *testing.T, r *receiver) {
			r.SetPeers([]key.Public{r.to, r.peer.Public()})
			r.Deliver(r.envelope(t, r.sealer, 1))
		}, nil, map[DropReason]uint64{DropUnknownSender: 1}},
		{"removed peer", func(t *testing.T, r *receiver) {
			e := r.envelope(t, r.seal, 1)
			r.SetPeers(nil)
			r.Deliver(e)
		}, nil, map[DropReason]uint64{DropUnknownSender: 1}},
		{"not an offer", func(t *testing.T, r *receiver) {
			r.Deliver(r.sealed(t, r.seal, []byte("not an offer")))
			r.Deliver(r.envelope(t, r.seal, 1))
		}, []uint32{1}, map[DropReason]uint64{DropInvalid: 1}},
		{"duplicates and older ones", func(t *testing.T, r *receiver) {
			one, two, three := r.envelope(t, r.seal, 1), r.envelope(t, r.seal, 2), r.envelope(t, r.seal, 3)
			for _, e := range [][]byte{one, one, three, two, three, one} {
				r.Deliver(bytes.Clone(e))
			}
		}, []uint32{1, 3}, map[DropReason]uint64{DropDuplicate: 3, DropStale: 1}},
		{"sealed anew with the same time", func(t *testing.T, r *receiver) {
			r.Deliver(r.envelope(t, r.seal, 1))
			r.Deliver(r.envelope(t, r.seal, 1))
		}, []uint32{1}, map[DropReason]uint64{DropDuplicate: 1}},
		{"removed and added again", func(t *testing.T, r *receiver) { // as in WireGuard, the timestamps are forgotten
			r.Deliver(r.envelope(t, r.seal, 5))
			synctest.Wait()
			r.SetPeers(nil)
			r.SetPeers([]key.Public{r.peer.Public()})
			r.Deliver(r.envelope(t, r.seal, 4))
		}, []uint32{5, 4}, nil},
		{"kept while others change", func(t *testing.T, r *receiver) {
			r.Deliver(r.envelope(t, r.seal, 5))
			synctest.Wait()
			r.SetPeers([]key.Public{key.NewPrivate().Public(), r.peer.Public()})
			r.Deliver(r.envelope(t, r.seal, 4))
		}, []uint32{5}, map[DropReason]uint64{DropStale: 1}},
		{"removed and added again by changes", func(t *testing.T, r *receiver) {
			r.Deliver(r.envelope(t, r.seal, 5))
			synctest.Wait()
			r.ChangePeers(nil, []key.Public{r.peer.Public()})
			r.Deliver(r.envelope(t, r.seal, 6))
			synctest.Wait()
			r.ChangePeers([]key.Public{r.peer.Public()}, nil)
			r.Deliver(r.envelope(t, r.seal, 4))
		}, []uint32{5, 4}, map[DropReason]uint64{DropUnknownSender: 1}},
		{"kept by changes", func(t *testing.T, r *receiver) {
			r.Deliver(r.envelope(t, r.seal, 5))
			synctest.Wait()
			r.ChangePeers([]key.Public{key.NewPrivate().Public(), r.peer.Public(), r.to}, []key.Public{key.NewPrivate().Public()})
			r.Deliver(r.envelope(t, r.seal, 4))
			r.Deliver(r.envelope(t, r.sealer, 1))
		}, []uint32{5}, map[DropReason]uint64{DropStale: 1, DropUnknownSender: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newReceiver(t)
				c.deliver(t, r)
				r.check(t, c.want, c.dropped)
			})
		})
	}
}

func TestReceiveUnusableCandidates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		o := offer(1)
		o.Ufrag, o.Pwd = "abcd", "0123456789abcdefghijkl"
		o.Candidates = []proto.Candidate{{Type: proto.Host, Network: proto.UDP4, Address: netip.MustParseAddrPort("192.0.2.1:1"), Component: 1}}
		payload, err := o.Marshal(proto.TimestampOf(time.Unix(1, 0)))
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(payload, []byte{192, 0, 2, 1})
		payload[at] = 224 // multicast
		r.Deliver(r.sealed(t, r.seal, payload))
		r.check(t, []uint32{1}, map[DropReason]uint64{DropCandidate: 1})
		if got := r.offers[0]; got.from != r.peer.Public() || len(got.offer.Candidates) != 0 || got.offer.Unusable != 1 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestPeerRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		recorded := r.envelope(t, r.seal, 1)
		var want []uint32
		for n := 1; n <= peerBurst+5; n++ {
			r.Deliver(r.envelope(t, r.seal, n))
			r.Deliver(bytes.Clone(recorded)) // must not use up the rate
			synctest.Wait()
			if n <= peerBurst {
				want = append(want, uint32(n))
			}
		}
		if got := r.versions(); !slices.Equal(got, want) {
			t.Errorf("got %d offers, want the first %d", len(got), peerBurst)
		}
		if got := r.Stats().Dropped[DropRate]; got != 5 {
			t.Errorf("got %d dropped for the rate, want 5", got)
		}
		advance(time.Second)
		r.Deliver(r.envelope(t, r.seal, peerBurst+5)) // the same again: it was not accepted, so it is no duplicate
		if got := r.versions(); got[len(got)-1] != peerBurst+5 {
			t.Error("the peer is not heard again")
		}
	})
}

// TestFlood fills the queue with what costs most, and looks for a limit on the work, a bound on the queue, and life after it.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		forged := r.envelope(t, r.seal, 1)
		forged[len(forged)-1] ^= 1
		const total = openBurst + queueLength + 100
		for n := range total {
			r.Deliver(bytes.Clone(forged))
			if n < openBurst {
				synctest.Wait() // the worker keeps up until its burst is used up
			}
		}
		synctest.Wait()
		s := r.Stats()
		if got := s.Dropped[DropForged]; got < openBurst || got > openBurst+1 {
			t.Errorf("got %d seals tried at once, want %d", got, openBurst)
		}
		if got := s.Dropped[DropQueueFull]; got < 99 || got > 100 {
			t.Errorf("got %d dropped for the queue, want about 100", got)
		}
		if s.Received != total {
			t.Errorf("got %d received, want %d", s.Received, total)
		}

		available := make(chan key.Public, 1)
		r.options.OnPeerAvailable = func(k key.Public) { available <- k } // the worker is idle: it waits for its pace
		r.PeerAvailable(r.peer.Public())
		synctest.Wait()
		if len(available) != 1 {
			t.Error("events wait for the flood to end")
		}

		advance(queueLength * time.Second / openRate)
		synctest.Wait()
		r.Deliver(r.envelope(t, r.seal, 1))
		advance(time.Second)
		if got := r.versions(); !slices.Equal(got, []uint32{1}) {
			t.Errorf("got %v after the flood, want the one offer", got)
		}
		if lines := strings.Count(r.log.String(), "\n"); lines > 3*logBurst {
			t.Errorf("got %d lines of log", lines)
		}
	})
}

func TestStaleLogTellsOfClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		payload, err := offer(1).Marshal(proto.TimestampOf(time.Now().Add(time.Hour)))
		if err != nil {
			t.Fatal(err)
		}
		r.Deliver(r.sealed(t, r.seal, payload))
		r.Deliver(r.envelope(t, r.seal, 2))
		r.check(t, []uint32{1}, map[DropReason]uint64{DropStale: 1})
		if got := r.log.String(); !strings.Contains(got, "clock by 1h0m0s") || !strings.Contains(got, "reason=stale") {
			t.Errorf("got %s", got)
		}
	})
}

// TestReplay delivers what a sender made in any order, with repetitions: what is passed on is strictly newer each time, it is
// the newest at the end, and nothing is missing from the counters.
func TestReplay(t *testing.T) {
	alice, bob := fixedKeys(t)
	rapid.Check(t, func(rt *rapid.T) {
		order := rapid.SliceOfN(rapid.IntRange(0, 19), 1, 40).Draw(rt, "order")
		var got []uint32
		r := &Router{options: RouterOptions{OnOffer: func(_ key.Public, o *proto.Offer) { got = append(got, o.Version) }}, sealer: newSealer(bob), peers: make(map[key.Public]*peer)}
		r.log = newDropLog(slog.New(slog.DiscardHandler), &r.counters)
		r.ctx, r.cancel = context.WithCancel(t.Context())
		defer r.cancel()
		r.SetPeers([]key.Public{alice.Public()})
		from := newSealer(alice)
		for _, n := range order {
			payload, err := offer(uint32(n)).Marshal(proto.TimestampOf(time.Unix(int64(n), 0)))
			if err != nil {
				rt.Fatal(err)
			}
			e, err := from.seal(bob.Public(), payload)
			if err != nil {
				rt.Fatal(err)
			}
			r.receive(e)
		}
		if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
			rt.Fatalf("got %v from %v: not strictly newer", got, order)
		}
		if got[len(got)-1] != uint32(slices.Max(order)) || got[0] != uint32(order[0]) {
			rt.Fatalf("got %v from %v", got, order)
		}
		s := r.Stats()
		if n := s.Accepted + s.Dropped[DropDuplicate] + s.Dropped[DropStale]; n != uint64(len(order)) {
			rt.Fatalf("counted %d of %d", n, len(order))
		}
	})
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peerA, peerB := key.NewPrivate().Public(), key.NewPrivate().Public()
		var available []key.Public
		changes := 0
		block := make(chan struct{})
		r := NewRouter(RouterOptions{
			Identity:        key.NewPrivate(),
			OnPeerAvailable: func(k key.Public) { available = append(available, k); <-block },
			OnICEServersChanged: func() {
				changes++
			},
		})
		r.SetPeers([]key.Public{peerA, peerB})
		r.PeerAvailable(key.NewPrivate().Public()) // not a peer
		r.PeerAvailable(peerA)
		synctest.Wait()
		for range 100 { // all while the handler is busy: they become one
			r.PeerAvailable(peerB)
			r.PeerAvailable(peerA)
			r.ICEServersChanged()
		}
		r.SetPeers([]key.Public{peerA})
		close(block)
		synctest.Wait()
		if want := []key.Public{peerA, peerA}; !slices.Equal(available, want) {
			t.Errorf("got %v, want %v", available, want)
		}
		if changes != 1 {
			t.Errorf("got %d changes, want 1", changes)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		r.PeerAvailable(peerA)
		r.ICEServersChanged()
		r.Deliver([]byte("x"))
		synctest.Wait()
		if changes != 1 || len(available) != 2 || r.Stats().Received != 0 {
			t.Error("a handler was called after Close")
		}
	})
}

func TestICEServersAndStatuses(t *testing.T) {
	r := NewRouter(RouterOptions{Identity: key.NewPrivate()})
	defer r.Close()
	one, two := proto.ICEServer{Scheme: proto.STUN, Host: "a", Port: 1}, proto.ICEServer{Scheme: proto.STUN, Host: "b", Port: 1}
	r.Add(&fakeBackend{name: "x", servers: []proto.ICEServer{one, two}})
	r.Add(&fakeBackend{name: "y", servers: []proto.ICEServer{two}})
	if got, want := r.ICEServers(), []proto.ICEServer{one, two}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := r.Statuses(); len(got) != 2 || got[0].Backend != "x" || got[1].Backend != "y" {
		t.Errorf("got %v", got)
	}
}

func TestDropReasonNames(t *testing.T) {
	seen := make(map[string]bool)
	for r := range dropReasons {
		if r.String() == "" || seen[r.String()] {
			t.Errorf("reason %d has the name %q", uint8(r), r)
		}
		seen[r.String()] = true
	}
	if got := dropReasons.String(); got != fmt.Sprintf("drop reason %d", uint8(dropReasons)) {
		t.Errorf("got %q", got)
	}
}

func TestCloseJoinsErrors(t *testing.T) {
	broken := errors.New("broken")
	r := NewRouter(RouterOptions{Identity: key.NewPrivate()})
	b := &fakeBackend{name: "x", closing: func() error { return broken }}
	ok := &fakeBackend{name: "y"}
	r.Add(b)
	r.Add(ok)
	for range 2 {
		if err := r.Close(); !errors.Is(err, broken) || !strings.Contains(err.Error(), "x") {
			t.Errorf("got %v, want %v and the backend's name", err, broken)
		}
	}
	late := &fakeBackend{name: "z"}
	r.Add(late)
	if b.closed != 1 || ok.closed != 1 || late.closed != 1 {
		t.Errorf("closed %d, %d, %d times, want once each", b.closed, ok.closed, late.closed)
	}
	if err := r.Send(t.Context(), key.Public{1}, offer(0)); !errors.Is(err, ErrClosed) {
		t.Errorf("send: got %v, want %v", err, ErrClosed)
	}
}

// changingBackend is a [PeerChanger].
type changingBackend struct {
	fakeBackend
	added, removed []key.Public
}

func (b *changingBackend) ChangePeers(added, removed []key.Public) {
	b.added, b.removed = added, removed
}

// TestChangePeers has each backend told of a change in the way that it knows.
func TestChangePeers(t *testing.T) {
	alice, bob, carol := key.NewPrivate().Public(), key.NewPrivate().Public(), key.NewPrivate().Public()
	r := newReceiver(t)
	plain, changing := new(fakeBackend), new(changingBackend)
	r.Add(plain)
	r.Add(changing)
	check := func(what string, added, removed, all []key.Public) {
		t.Helper()
		slices.SortFunc(all, key.Public.Compare)
		if !slices.Equal(plain.peers, all) {
			t.Errorf("%s: got all of %v, want %v", what, plain.peers, all)
		}
		if !slices.Equal(changing.added, added) || !slices.Equal(changing.removed, removed) {
			t.Errorf("%s: got %v added and %v removed, want %v and %v", what, changing.added, changing.removed, added, removed)
		}
	}
	r.ChangePeers([]key.Public{alice, bob}, []key.Public{r.peer.Public()})
	check("change", []key.Public{alice, bob}, []key.Public{r.peer.Public()}, []key.Public{alice, bob})
	if len(changing.peers) != 1 {
		t.Errorf("got %d peers set, want only the one of Add", len(changing.peers))
	}
	r.SetPeers([]key.Public{carol, alice})
	check("set", []key.Public{carol, alice}, []key.Public{bob}, []key.Public{carol, alice})
}
