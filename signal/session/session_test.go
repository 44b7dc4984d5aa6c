package session

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pion/ice/v2"
	"go.uber.org/goleak"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
	t     *testing.T
	key   key.Public
	s     *Session
	paths chan *Path
	opts  Options
	wire  *wire
}

func keys() (a, b key.Public) { a[0], b[0] = 1, 2; return a, b }

func newMux(t *testing.T) ice.UniversalUDPMux {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	mux := ice.NewUniversalUDPMuxDefault(ice.UniversalUDPMuxParams{UDPConn: c, Logger: logger{discard()}})
	t.Cleanup(func() { mux.Close(); c.Close() })
	return mux
}

func newSide(t *testing.T, w *wire, local, remote key.Public, change func(*Options)) *side {
	t.Helper()
	d := &side{t: t, key: local, paths: make(chan *Path, 64), wire: w}
	d.opts = Options{
		Local: local, Remote: remote, Mux: newMux(t), IncludeLoopback: true, Logger: discard(),
		NetworkTypes: []proto.NetworkType{proto.UDP4},
		Send:         func(_ context.Context, o *proto.Offer) error { w.send(local, remote, o); return nil },
		OnPath:       func(p *Path) { d.paths <- p },
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
	if took := time.Since(start); took > 3*time.Second {
		d.t.Errorf("close took %v", took)
	}
}

// path waits for a path of a generation newer than the given one.
func (d *side) path(after uint64) *Path {
	d.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case p := <-d.paths:
			if p != nil && p.Generation > after {
				return p
			}
			if p == nil && after != noDrop {
				d.t.Fatalf("the path was dropped: %+v", d.s.Status())
			}
		case <-timeout:
			d.t.Fatalf("no path: %+v", d.s.Status())
		}
	}
}

const noDrop = 0 // before the first path there is none to drop

func transfer(t *testing.T, from, to *Path) {
	t.Helper()
	if _, err := from.Conn.Write([]byte("over the path")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, err := to.Conn.Read(b)
	if err != nil || string(b[:n]) != "over the path" {
		t.Fatalf("got %q, %v", b[:n], err)
	}
}

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
			st := a.s.Status()
			if st.State != Connected || st.Reason != "" || st.Restarts != 0 {
				t.Errorf("got %+v", st)
			}
			for _, k := range []key.Public{ka, kb} {
				for i, o := range w.sent(k) {
					if (o.Version == 0) != (len(o.Candidates) == 0 && o.Version == 0) || o.Ufrag == "" || o.Pwd == "" {
						t.Errorf("offer %d of %s: %+v", i, k.Short(), o)
					}
				}
			}
		})
	}
}
