package session

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/ice/v2"
	"github.com/pion/stun"
	"go.uber.org/goleak"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
)

func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "2000"); err != nil { // the default; the command line wins
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// wire carries offers between two sides of a test, and loses and doubles some of them.
type wire struct {
	mu   sync.Mutex
	rng  *rand.Rand
	loss float64
	ends map[key.Public]*Session // receivers by key
	log  map[key.Public][]*proto.Offer
	cut  bool
}

func newWire(loss float64) *wire {
	return &wire{rng: rand.New(rand.NewPCG(1, 2)), loss: loss, ends: map[key.Public]*Session{}, log: map[key.Public][]*proto.Offer{}}
}

func (w *wire) send(from, to key.Public, o *proto.Offer) {
	w.mu.Lock()
	w.log[from] = append(w.log[from], o)
	end := w.ends[to]
	lost, twice := w.cut || w.rng.Float64() < w.loss, w.rng.Float64() < w.loss
	w.mu.Unlock()
	if end == nil || lost {
		return
	}
	c := *o
	end.HandleOffer(&c)
	if twice {
		end.HandleOffer(&c)
	}
}

func (w *wire) sent(from key.Public) []*proto.Offer {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*proto.Offer(nil), w.log[from]...)
}

func (w *wire) setCut(cut bool) { w.mu.Lock(); w.cut = cut; w.mu.Unlock() }

// side is a session with what it reported.
type side struct {
	t        *testing.T
	key      key.Public
	s        *Session
	paths    chan *Path
	switched atomic.Int64  // when the last path came, in nanoseconds since 1970
	news     chan struct{} // capacity 1
	opts     Options
	wire     *wire
}

func keys() (a, b key.Public) { a[0], b[0] = 1, 2; return a, b }

// gatedConn holds back its reader: pion's mux reads before it is quite made, which matters if a peer still sends to a port used anew.
type gatedConn struct {
	net.PacketConn
	ready chan struct{}
}

func (c gatedConn) ReadFrom(b []byte) (int, net.Addr, error) {
	<-c.ready
	return c.PacketConn.ReadFrom(b)
}

func newMux(t *testing.T) ice.UniversalUDPMux {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	mux := &countedMux{UniversalUDPMux: ice.NewUniversalUDPMuxDefault(ice.UniversalUDPMuxParams{UDPConn: gatedConn{c, ready}, Logger: logger{discard()}})}
	close(ready)
	t.Cleanup(func() { mux.asking.Wait(); mux.Close(); c.Close() })
	return mux
}

// countedMux knows the questions to STUN servers that are under way: they outlive a session, but must end.
type countedMux struct {
	ice.UniversalUDPMux
	asking sync.WaitGroup
}

func (m *countedMux) GetXORMappedAddr(server net.Addr, limit time.Duration) (*stun.XORMappedAddress, error) {
	m.asking.Add(1)
	defer m.asking.Done()
	return m.UniversalUDPMux.GetXORMappedAddr(server, limit)
}

func newSide(t *testing.T, w *wire, local, remote key.Public, change func(*Options)) *side {
	t.Helper()
	d := &side{t: t, key: local, paths: make(chan *Path, 64), news: make(chan struct{}, 1), wire: w}
	d.opts = Options{
		Local: local, Remote: remote, Mux: newMux(t), IncludeLoopback: true, Logger: discard(),
		NetworkTypes: []proto.NetworkType{proto.UDP4},
		Send:         func(_ context.Context, o *proto.Offer) error { w.send(local, remote, o); return nil },
		OnPath: func(p *Path) {
			d.switched.Store(time.Now().UnixNano())
			d.paths <- p
		},
		OnChange: func() {
			select {
			case d.news <- struct{}{}:
			default:
			}
		},
	}
	if change != nil {
		change(&d.opts)
	}
	d.open()
	t.Cleanup(func() { d.close() })
	return d
}

// open makes the session, as a process that starts does.
func (d *side) open() {
	d.t.Helper()
	s, err := New(d.opts)
	if err != nil {
		d.t.Fatal(err)
	}
	d.s = s
	d.wire.mu.Lock()
	d.wire.ends[d.key] = s
	d.wire.mu.Unlock()
}

func (d *side) close() {
	d.t.Helper()
	d.wire.mu.Lock()
	delete(d.wire.ends, d.key)
	d.wire.mu.Unlock()
	start := time.Now()
	if err := d.s.Close(); err != nil {
		d.t.Error(err)
	}
	if took := time.Since(start); took > closeTimeout+3*time.Second { // less than a server is waited for
		d.t.Errorf("close took %v", took)
	}
	if d.s.begun != nil {
		d.s.work.Wait() // what Close does not wait for has to end too
	}
}

// patience is for what takes a fraction of a second on an idle machine.
const patience = 30 * time.Second

// path waits for a path of a generation newer than the given one.
func (d *side) path(after uint64) *Path {
	d.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case p := <-d.paths:
			if p != nil && p.Generation > after {
				return p
			}
			if p == nil {
				d.t.Fatalf("the path was dropped: %+v", d.s.Status())
			}
		case <-timeout:
			d.t.Fatalf("no path: %+v", d.s.Status())
		}
	}
}

// until waits for a status.
func (d *side) until(ok func(Status) bool) {
	d.t.Helper()
	timeout := time.After(patience)
	for !ok(d.s.Status()) {
		select {
		case <-d.news:
		case <-timeout:
			d.t.Fatalf("got %+v", d.s.Status())
		}
	}
}

func transfer(t *testing.T, from, to *Path) {
	t.Helper()
	text := fmt.Sprint("over the path ", transfers.Add(1))
	var writing sync.WaitGroup
	defer writing.Wait()
	read := make(chan struct{})
	defer close(read)
	writing.Go(func() {
		for { // again: any can be lost, as with an agent of before that is closed while it comes
			if _, err := from.Conn.Write([]byte(text)); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-read:
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
	b := make([]byte, 100)
	for {
		n, err := to.Conn.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		if string(b[:n]) == text {
			return
		}
	}
}

var transfers atomic.Int64 // so that no text comes twice

func TestConnect(t *testing.T) {
	for _, c := range []struct {
		name   string
		loss   float64
		starts int
	}{{"one starts", 0, 1}, {"both start", 0, 2}, {"lossy", 0.4, 2}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWire(c.loss)
			ka, kb := keys()
			a, b := newSide(t, w, ka, kb, nil), newSide(t, w, kb, ka, nil)
			began := time.Now()
			a.s.Start()
			if c.starts == 2 {
				b.s.Start()
			}
			pa, pb := a.path(0), b.path(0)
			t.Logf("connected after %v", time.Since(began))
			if pa.Local.Address != pb.Remote.Address || pa.Remote.Address != pb.Local.Address {
				t.Errorf("the sides disagree: %+v, %+v", pa, pb)
			}
			if !pa.Direct || pa.Relayed || pa.Local.Type != proto.Host || pa.Network != proto.UDP4 || pa.Base != pa.Local.Address {
				t.Errorf("got %+v, want a direct host pair", pa)
			}
			transfer(t, pa, pb)
			transfer(t, pb, pa)
			a.until(func(st Status) bool { return st.State == Connected }) // which it is told after the path
			st := a.s.Status()
			if st.State != Connected || st.Reason != "" || st.Restarts != 0 {
				t.Errorf("got %+v", st)
			}
			for _, k := range []key.Public{ka, kb} {
				for i, o := range w.sent(k) {
					if o.Version == 0 && len(o.Candidates) > 0 || o.Ufrag == "" || o.Pwd == "" {
						t.Errorf("offer %d of %s: %+v", i, k.Short(), o)
					}
				}
			}
		})
	}
}

func TestRestart(t *testing.T) {
	w := newWire(0)
	ka, kb := keys()
	a, b := newSide(t, w, ka, kb, nil), newSide(t, w, kb, ka, nil)
	a.s.Start()
	pa, pb := a.path(0), b.path(0)
	b.s.Restart("test") // path fails the test if the old one is dropped before there is a new one
	pa2, pb2 := a.path(pa.Generation), b.path(pb.Generation)
	transfer(t, pa2, pb2)
	transfer(t, pb2, pa2)
	if a.s.Status().Restarts != 1 || b.s.Status().Restarts != 1 {
		t.Errorf("got %+v and %+v, want one restart", a.s.Status(), b.s.Status())
	}
	a.s.NetworkChanged()
	a.path(pa2.Generation)
	b.path(pb2.Generation)
}

func TestProcessRestart(t *testing.T) {
	w := newWire(0)
	ka, kb := keys()
	a, b := newSide(t, w, ka, kb, nil), newSide(t, w, kb, ka, nil)
	a.s.Start()
	pa := a.path(0)
	b.path(0)
	b.close()
	b.paths = make(chan *Path, 64)
	b.opts.Mux = newMux(t)
	b.open()
	b.s.Start()
	pa2, pb := a.path(pa.Generation), b.path(0)
	transfer(t, pa2, pb)
}

func TestSleepAndWake(t *testing.T) {
	w := newWire(0)
	ka, kb := keys()
	lazy := func(o *Options) { o.Lazy = true }
	a, b := newSide(t, w, ka, kb, lazy), newSide(t, w, kb, ka, lazy)
	a.s.Start()
	a.path(0)
	b.path(0)
	a.s.Sleep()
	for _, d := range []*side{a, b} {
		if p := <-d.paths; p != nil {
			t.Fatalf("got %+v, want no path", p)
		}
		d.until(func(st Status) bool { return st.State == Idle })
	}
	b.s.Start()
	transfer(t, b.path(1), a.path(1))
}

func TestCloseWhileGathering(t *testing.T) {
	silent, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}) // never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	port := uint16(silent.LocalAddr().(*net.UDPAddr).Port)
	w := newWire(0)
	ka, kb := keys()
	dead := func(o *Options) {
		o.ICEServers = func() []proto.ICEServer {
			return []proto.ICEServer{
				{Scheme: proto.STUN, Host: "127.0.0.1", Port: port, Transport: proto.TransportUDP},
				{Scheme: proto.TURN, Host: "127.0.0.1", Port: port, Transport: proto.TransportUDP, Username: "u", Password: "p"},
			}
		}
	}
	a, b := newSide(t, w, ka, kb, dead), newSide(t, w, kb, ka, dead)
	began := time.Now()
	a.s.Start()
	pa, pb := a.path(0), b.path(0)
	if took := time.Since(began); took > 4*time.Second { // a server is given up after 5 s
		t.Errorf("dead servers hold up the host pair: %v", took)
	}
	transfer(t, pa, pb)
	// side.close, at the end of the test, fails if it takes long: the gathering still waits for the servers
}

func TestStatusSaysWhy(t *testing.T) {
	w := newWire(0)
	ka, kb := keys()
	a := newSide(t, w, ka, kb, nil)
	if st := a.s.Status(); st.State != Idle || st.Reason == "" {
		t.Errorf("got %+v", st)
	}
	a.s.Start()
	a.until(func(st Status) bool { return st.State == Connecting && st.Reason == "no offer from the peer yet" })
	a.s.HandleOffer(&proto.Offer{ID: sid(9), Ufrag: "ufrag", Pwd: strings.Repeat("p", 22)})
	a.until(func(st Status) bool { return st.Reason == "the peer has not answered our offer yet" })
	for len(w.sent(ka)) == 0 {
		runtime.Gosched()
	}
	id := w.sent(ka)[0].ID
	a.s.HandleOffer(&proto.Offer{ID: sid(9), RID: id, Version: 1, Ufrag: "ufrag", Pwd: strings.Repeat("p", 22)})
	a.until(func(st Status) bool { return st.Reason == "no candidates from the peer yet" })
	a.s.HandleOffer(&proto.Offer{ID: sid(9), RID: id, Version: 2, Ufrag: "ufrag", Pwd: strings.Repeat("p", 22), Candidates: []proto.Candidate{
		{Type: proto.Relay, Network: proto.UDP4, Address: netip.MustParseAddrPort("127.0.0.1:9"), Component: 1}}})
	a.until(func(st Status) bool { return st.Reason == "checking here host; peer relay" })
}

func TestRemoteCandidatesThatAreRefused(t *testing.T) {
	ka, kb := keys()
	d := newSide(t, newWire(0), ka, kb, func(o *Options) {
		o.IncludeLoopback = false
		o.ExcludeAddr = func(a netip.Addr) bool { return a == netip.MustParseAddr("10.0.0.1") }
	})
	for _, c := range []struct {
		addr string
		want bool
	}{
		{"192.0.2.1:1", true}, {"192.0.2.1:0", false}, {"127.0.0.1:1", false}, {"224.0.0.1:1", false}, {"0.0.0.0:1", false},
		{"0.1.2.3:1", false}, {"255.255.255.255:1", false}, {"10.0.0.1:1", false}, {"10.0.0.2:1", true}, {"[2001:db8::1]:1", false},
		{"[::ffff:127.0.0.1]:1", false},
	} {
		got := d.s.remoteAllowed(proto.Candidate{Type: proto.Host, Network: proto.UDP4, Address: netip.MustParseAddrPort(c.addr), Component: 1})
		if got != c.want {
			t.Errorf("%s: got %v, want %v", c.addr, got, c.want)
		}
	}
}

func TestMailboxIsBounded(t *testing.T) {
	s := &Session{begun: &begun{handling: true}}
	for v := range uint32(10 * maxQueuedOffers) {
		s.HandleOffer(&proto.Offer{Version: v})
		s.PeerAvailable()
		s.NetworkChanged()
	}
	evs, _ := s.take()
	if len(evs) != maxQueuedOffers+2 {
		t.Errorf("got %d events", len(evs))
	}
	if last := evs[maxQueuedOffers-1].(OfferReceived); last.Offer.Version != 10*maxQueuedOffers-1 {
		t.Errorf("the newest offer was lost")
	}
}

// TestStartWaitsForThePeer starts a session whose peer can't be reached: there is only its status until it can.
func TestStartWaitsForThePeer(t *testing.T) {
	w := newWire(0)
	a, b := key.NewPrivate().Public(), key.NewPrivate().Public()
	var absent atomic.Pointer[error]
	err := errors.New("it is not there")
	absent.Store(&err)
	first := newSide(t, w, a, b, func(o *Options) {
		o.Reach = func() error {
			if err := absent.Load(); err != nil {
				return *err
			}
			return nil
		}
	})
	second := newSide(t, w, b, a, nil)

	first.s.Start()
	first.s.NetworkChanged()
	first.s.Restart("the user wants it")
	if st := first.s.Status(); st.State != Connecting || !strings.Contains(st.Reason, "it is not there") || first.s.begun != nil {
		t.Errorf("got %+v, begun: %t", st, first.s.begun != nil)
	}
	first.s.Sleep()
	if st := first.s.Status(); st.State != Idle || st.Reason != reasonIdle {
		t.Errorf("got %+v", st)
	}
	first.s.PeerAvailable() // nothing waits for it
	if st := first.s.Status(); st.State != Idle {
		t.Errorf("got %+v", st)
	}
	first.s.Start()
	absent.Store(nil)
	first.s.PeerAvailable()
	first.path(0)
	second.path(0)

	absent.Store(&err)
	first.close()
	first.open()
	first.s.Start()
	if err := first.s.Close(); err != nil {
		t.Error(err)
	}
	absent.Store(nil)
	first.s.PeerAvailable()
	first.s.Start()
	if first.s.begun != nil {
		t.Error("a closed session begins")
	}
}

// TestOfferWhileWaiting brings a session that waits for its peer an offer with which nothing begins: it waits no more, but does begin.
func TestOfferWhileWaiting(t *testing.T) {
	w := newWire(0)
	a, b := key.NewPrivate().Public(), key.NewPrivate().Public()
	first := newSide(t, w, a, b, func(o *Options) { o.Reach = func() error { return errors.New("it is not there") } })
	first.s.Start()
	first.s.HandleOffer(&proto.Offer{ID: proto.SessionID{1}, Version: 3, Features: []string{featureIdle}})
	first.s.PeerAvailable()
	second := newSide(t, w, b, a, nil)
	first.path(0)
	second.path(0)
}
