package libp2p_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/libp2p"
	"github.com/wice-go/wice-go/signal/rendezvous"
	"github.com/wice-go/wice-go/signal/signaltest"
	"github.com/wice-go/wice-go/test/program"
)

const patience = 20 * time.Second

// peer is a backend on loopback without multicast DNS, which others' tests on this machine hear too.
type peer struct {
	*signaltest.Recorder
	*libp2p.Backend
	public key.Public
}

func newPeer(t *testing.T, change func(*signal.Env), q url.Values) *peer {
	t.Helper()
	private := key.NewPrivate()
	p := &peer{Recorder: signaltest.NewRecorder(), public: private.Public()}
	env := signal.Env{Identity: private, Sink: p.Recorder, ExcludeAddr: loopbackOnly}
	if change != nil {
		change(&env)
	}
	if q == nil {
		q = url.Values{}
	}
	if !q.Has("mdns") {
		q.Set("mdns", "false")
	}
	b, err := libp2p.New(t.Context(), env, []url.Values{q})
	if err != nil {
		t.Fatal(err)
	}
	p.Backend = b.(*libp2p.Backend)
	t.Cleanup(func() { p.Close() })
	return p
}

func (p *peer) wait(t *testing.T, what string, cond func(*signaltest.Recorder) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Wait(ctx, cond); err != nil {
		t.Fatalf("%s: %v; status %+v", what, err, p.Status())
	}
}

// eventually polls a condition that nothing reports.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// TestStatusSaysWhy checks the words for a bootstrap that is not there.
func TestStatusSaysWhy(t *testing.T) {
	port, err := program.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	closed := fmt.Sprintf("127.0.0.1:%d", port)
	up := startRendezvous(t).Bootstraps()[0]
	down := fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port) + "/p2p/12D3KooWJWRuCsfLc64vuG6UGbDAWLg3Qdqjy7yHL8vHGACURynn"
	p := newPeer(t, nil, url.Values{"bootstrap": {up, down}})
	want := "1 of 2 bootstraps connected; bootstrap " + closed + ": connection refused"
	eventually(t, want, func() bool { return p.Status().Detail == want })
	if !p.Status().Connected {
		t.Error("got not connected with one of two bootstraps")
	}
}

// TestStatusNamesAnotherIdentity is what users see when the server lost its state.
func TestStatusNamesAnotherIdentity(t *testing.T) {
	up := startRendezvous(t).Bootstraps()[0]
	address, _, _ := strings.Cut(up, "/p2p/")
	p := newPeer(t, nil, url.Values{"bootstrap": {address + "/p2p/12D3KooWJWRuCsfLc64vuG6UGbDAWLg3Qdqjy7yHL8vHGACURynn"}})
	eventually(t, "the status says that the identity is another", func() bool { return strings.Contains(p.Status().Detail, "has another identity (12D3") })
}

func TestRendezvousRestart(t *testing.T) {
	dir := t.TempDir()
	o := rendezvous.Options{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, StateDir: dir}
	first, err := rendezvous.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	q := func() url.Values { return url.Values{"bootstrap": first.Bootstraps(), "dht": {"false"}} }
	a, b := newPeer(t, nil, q()), newPeer(t, nil, q())
	a.SetPeers([]key.Public{b.public})
	b.SetPeers([]key.Public{a.public})
	b.wait(t, "the peer is there", func(r *signaltest.Recorder) bool { return len(r.Available()) > 0 })
	eventually(t, "published through the relay", func() bool { return a.Publish(t.Context(), b.public, []byte("before")) == nil })

	o.Port = port(t, first)
	o.STUNPort = first.STUNPort()
	first.Close()
	eventually(t, "the loss is noticed", func() bool { return !a.Status().Connected && !b.Status().Connected })
	if err := a.Publish(t.Context(), b.public, []byte("lost")); err == nil {
		t.Error("published without any way to the peer")
	}
	again, err := rendezvous.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	began := time.Now()
	before := len(a.Available())
	a.wait(t, "the peer is reported again", func(r *signaltest.Recorder) bool { return len(r.Available()) > before })
	eventually(t, "published through the restarted relay", func() bool { return a.Publish(t.Context(), b.public, []byte("after")) == nil })
	t.Logf("took %v after the restart", time.Since(began))
}

func port(t *testing.T, s *rendezvous.Server) uint16 {
	t.Helper()
	_, rest, _ := strings.Cut(s.Bootstraps()[0], "/tcp/")
	text, _, _ := strings.Cut(rest, "/")
	a, err := netip.ParseAddrPort("127.0.0.1:" + text)
	if err != nil {
		t.Fatal(err)
	}
	return a.Port()
}

// TestStranger checks that who is not configured gets no connection at all, even with the address and the identity known.
func TestStranger(t *testing.T) {
	listen := func() url.Values { return url.Values{"listen": {"/ip4/127.0.0.1/tcp/0"}} }
	a := newPeer(t, nil, listen())
	// A bootstrap is whom a node dials without knowing anything else: so the stranger takes the peer for one.
	q := listen()
	q.Set("bootstrap", a.Addrs()[0].String())
	stranger := newPeer(t, nil, q)
	stranger.SetPeers([]key.Public{a.public})
	eventually(t, "the stranger is refused", func() bool {
		detail := stranger.Status().Detail
		return strings.Contains(detail, "bootstrap 127.0.0.1") && !strings.Contains(detail, "connecting")
	})
	if err := stranger.Publish(t.Context(), a.public, []byte("x")); err == nil {
		t.Error("a stranger's envelope was taken")
	}
	if n := len(a.Envelopes()) + len(a.Available()); n > 0 {
		t.Errorf("the sink was called %d times", n)
	}
}

// TestMadPeer checks that one peer can't keep the sink busy.
func TestMadPeer(t *testing.T) {
	s := startRendezvous(t)
	q := func() url.Values { return url.Values{"bootstrap": s.Bootstraps(), "dht": {"false"}} }
	a, b := newPeer(t, nil, q()), newPeer(t, nil, q())
	a.SetPeers([]key.Public{b.public})
	b.SetPeers([]key.Public{a.public})
	eventually(t, "published", func() bool { return a.Publish(t.Context(), b.public, []byte("first")) == nil })
	const sent = 1000
	began := time.Now()
	var taken atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range sent / 4 {
				if a.Publish(t.Context(), b.public, []byte("again")) == nil {
					taken.Add(1)
				}
			}
		})
	}
	wg.Wait()
	most := 201 + int(20*time.Since(began).Seconds())
	if n := len(b.Envelopes()); n > most || n < 200 || int(taken.Load()) < sent/2 {
		t.Errorf("%d of %d envelopes were acknowledged, %d reached the sink; want all, and 200 to %d", taken.Load(), sent, n, most)
	}
}

// TestEverySocketIsControlled checks that marks reach every socket: listening and dialling, TCP and UDP, and multicast.
func TestEverySocketIsControlled(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]bool{}
	s := startRendezvous(t)
	p := newPeer(t, func(e *signal.Env) {
		e.Control = func(network, address string, c syscall.RawConn) error {
			mu.Lock()
			defer mu.Unlock()
			seen[network+" "+address] = true
			return nil
		}
	}, url.Values{
		"bootstrap": s.Bootstraps(), "mdns": {"true"},
		"listen": {"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"},
	})
	dialled := "tcp4 127.0.0.1:" + strings.TrimPrefix(netip.AddrPortFrom(netip.IPv4Unspecified(), port(t, s)).String(), "0.0.0.0:")
	eventually(t, "sockets", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return seen["tcp4 127.0.0.1:0"] && seen["udp4 127.0.0.1:0"] && seen[dialled] && seen["udp4 0.0.0.0:5353"]
	})
	eventually(t, "connected", func() bool { return p.Status().Connected })
}

// TestControlFails checks that no socket is used whose mark could not be set.
func TestControlFails(t *testing.T) {
	_, err := libp2p.New(t.Context(), signal.Env{
		Identity: key.NewPrivate(), Sink: signaltest.NewRecorder(),
		Control: func(string, string, syscall.RawConn) error { return syscall.EPERM },
	}, nil)
	if !errors.Is(err, syscall.EPERM) {
		t.Errorf("got %v, want %v", err, syscall.EPERM)
	}
}

// TestOverlayIsNotAnnounced checks that excluded addresses are neither announced nor dialled.
func TestOverlayIsNotAnnounced(t *testing.T) {
	all := newPeer(t, func(e *signal.Env) { e.ExcludeAddr = nil }, url.Values{"listen": {"/ip4/127.0.0.1/tcp/0"}})
	if len(all.Addrs()) == 0 {
		t.Fatal("nothing is announced")
	}
	none := newPeer(t, func(e *signal.Env) { e.ExcludeAddr = func(netip.Addr) bool { return true } }, url.Values{"listen": {"/ip4/127.0.0.1/tcp/0"}})
	if got := none.Addrs(); len(got) != 0 {
		t.Errorf("got %v announced", got)
	}
}

func TestPublishWithoutAnyWay(t *testing.T) {
	p := newPeer(t, nil, nil)
	other := key.NewPrivate().Public()
	if err := p.Publish(t.Context(), other, []byte("x")); !errors.Is(err, libp2p.ErrNotConfigured) {
		t.Errorf("got %v, want %v", err, libp2p.ErrNotConfigured)
	}
	p.SetPeers([]key.Public{other})
	for _, err := range []error{p.Publish(t.Context(), other, []byte("x")), p.Reach(other)} {
		if err == nil || !strings.Contains(err.Error(), "no bootstrap is configured") {
			t.Errorf("got %v", err)
		}
	}
	p.Close()
	if err := p.Publish(t.Context(), other, []byte("x")); !errors.Is(err, libp2p.ErrClosed) {
		t.Errorf("got %v, want %v", err, libp2p.ErrClosed)
	}
	if s := p.Status(); s.Connected || s.Detail != "closed" {
		t.Errorf("got %+v", s)
	}
}

// TestNewDoesNotWait checks that a bootstrap that swallows everything does not hold up the start or the end.
func TestNewDoesNotWait(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0") // never accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	began := time.Now()
	p := newPeer(t, nil, url.Values{"bootstrap": {"/ip4/127.0.0.1/tcp/" + port + "/p2p/12D3KooWJWRuCsfLc64vuG6UGbDAWLg3Qdqjy7yHL8vHGACURynn"}})
	if got, want := p.Status().Detail, "0 of 1 bootstrap connected"; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q...", got, want)
	}
	p.Close()
	if took := time.Since(began); took >= 10*time.Second { // connectTimeout
		t.Errorf("start and end took %v", took)
	}
}
