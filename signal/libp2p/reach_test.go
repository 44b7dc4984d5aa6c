package libp2p

import (
	"context"
	"net/netip"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/libp2p/node"
	"github.com/wice-go/wice-go/signal/rendezvous"
	"github.com/wice-go/wice-go/signal/signaltest"
)

// reaching makes a backend for the tests of Reach.
func reaching(t *testing.T, q url.Values) (*Backend, *signaltest.Recorder) {
	t.Helper()
	sink := signaltest.NewRecorder()
	return reachingFrom(t, sink, q), sink
}

func reachingFrom(t *testing.T, sink signal.Sink, q url.Values) *Backend {
	t.Helper()
	q.Set("mdns", "false")
	q.Set("listen", "/ip4/127.0.0.1/tcp/0")
	c, err := ParseConfig([]url.Values{q})
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewBackend(t.Context(), signal.Env{
		Identity: key.NewPrivate(), Sink: sink, ExcludeAddr: func(a netip.Addr) bool { return !a.IsLoopback() },
	}, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// startServer runs a rendezvous that has room for so many reservations.
func startServer(t *testing.T, reservations int) *rendezvous.Server {
	t.Helper()
	s, err := rendezvous.Start(t.Context(), rendezvous.Options{
		Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Limits: rendezvous.Limits{Reservations: reservations},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// told waits until a peer was reported.
func told(t *testing.T, sink *signaltest.Recorder, k key.Public) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := sink.Wait(ctx, func(r *signaltest.Recorder) bool { return slices.Contains(r.Available(), k) }); err != nil {
		t.Fatalf("the peer is not reported: %v", err)
	}
}

// TestReachAfterSetPeers has a peer configured while there is a bootstrap: whoever asked before waits.
func TestReachAfterSetPeers(t *testing.T) {
	b, sink := reaching(t, url.Values{"bootstrap": startServer(t, 0).Bootstraps()})
	first, second := key.NewPrivate().Public(), key.NewPrivate().Public()
	b.SetPeers([]key.Public{first})
	told(t, sink, first)
	if b.Reach(second) == nil {
		t.Fatal("a peer that is not configured can be reached")
	}
	b.SetPeers([]key.Public{first, second})
	if err := b.Reach(second); err != nil {
		t.Fatal(err)
	}
	told(t, sink, second)
}

// TestReachWithoutReservation has a bootstrap that is full: it relays nothing, but its DHT knows where a peer is.
func TestReachWithoutReservation(t *testing.T) {
	s := startServer(t, 1)
	a, sink := reaching(t, url.Values{"bootstrap": s.Bootstraps()})
	someone := key.NewPrivate().Public()
	a.SetPeers([]key.Public{someone})
	told(t, sink, someone) // the one reservation is taken

	other := key.NewPrivate().Public()
	b, sink := reaching(t, url.Values{"bootstrap": s.Bootstraps()})
	b.SetPeers([]key.Public{other})
	told(t, sink, other)
	if err := b.Reach(other); err != nil {
		t.Error(err)
	}
	if n := len(sink.Available()); n != 1 {
		t.Errorf("reported %d times", n)
	}
}

// TestReachWhileAddressesChange announces a peer at other addresses: there is always one, so that nobody begins to wait.
func TestReachWhileAddressesChange(t *testing.T) {
	b, _ := reaching(t, url.Values{})
	other := key.NewPrivate().Public()
	id, err := node.PeerID(other)
	if err != nil {
		t.Fatal(err)
	}
	b.SetPeers([]key.Public{other})
	at := []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/1"), ma.StringCast("/ip4/127.0.0.1/tcp/2")}
	b.found(peer.AddrInfo{ID: id, Addrs: at[:1]})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 5000 {
			b.found(peer.AddrInfo{ID: id, Addrs: at[i%2 : i%2+1]})
		}
	}()
	for {
		if err := b.Reach(other); err != nil {
			<-done
			t.Fatal(err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

// TestAnnouncedWhileConfigured has a peer configured while an announcement of it is being taken, after which it would be silent for a minute: it is
// noted before anything is asked about the peer.
func TestAnnouncedWhileConfigured(t *testing.T) {
	b, sink := reaching(t, url.Values{})
	other := key.NewPrivate().Public()
	id, err := node.PeerID(other)
	if err != nil {
		t.Fatal(err)
	}
	taken := make(chan struct{})
	func() {
		b.gater.mu.Lock() // as the one who configures it does
		defer b.gater.mu.Unlock()
		go func() {
			defer close(taken)
			b.found(peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/1")}})
		}()
		noted := func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			_, ok := b.heard[id]
			return ok
		}
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for deadline := time.After(20 * time.Second); !noted(); {
			select {
			case <-tick.C:
			case <-deadline:
				t.Error("the announcement is not noted")
				return
			}
		}
	}()
	<-taken
	b.SetPeers([]key.Public{other})
	told(t, sink, other)
	if err := b.Reach(other); err != nil {
		t.Error(err)
	}
}

// busySink keeps the goroutine of a bootstrap busy that tells of ICE servers.
type busySink struct {
	*signaltest.Recorder
	told, goOn chan struct{}
}

func (s busySink) ICEServersChanged() {
	wake(s.told)
	<-s.goOn
}

// TestReservationAfterAnotherConnection loses the connection to a bootstrap, and has another one made, before the goroutine that has the reservation
// looks: it has to ask for another one.
func TestReservationAfterAnotherConnection(t *testing.T) {
	q := func(s *rendezvous.Server) url.Values {
		return url.Values{"bootstrap": s.Bootstraps(), "dht": {"false"}}
	}
	s := startServer(t, 8)
	sink := busySink{signaltest.NewRecorder(), make(chan struct{}, 1), make(chan struct{})}
	a := reachingFrom(t, sink, q(s))
	<-sink.told
	r := a.relays[0]
	if err := a.host.Network().ClosePeer(r.info.ID); err != nil {
		t.Error(err)
	}
	if _, err := a.host.Network().DialPeer(t.Context(), r.info.ID); err != nil {
		t.Error(err)
	}
	close(sink.goOn)

	b, _ := reaching(t, q(s))
	a.SetPeers([]key.Public{b.env.Identity.Public()})
	b.SetPeers([]key.Public{a.env.Identity.Public()})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); ; {
		err := b.Publish(t.Context(), a.env.Identity.Public(), []byte("offer"))
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}
