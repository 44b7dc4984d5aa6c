package bind

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wice-go/wice-go/bind/pmtu"
)

const (
	fullDatagram = 1452
	testOverhead = ipv4Header + udpHeader
)

// fakeRoute answers the probes that fit, after a while.
type fakeRoute struct {
	mtu, local atomic.Int64 // with the headers
	sent       atomic.Int64
	err        error
}

func (r *fakeRoute) bound() (int, error) { return int(r.local.Load()) - testOverhead, r.err }
func (r *fakeRoute) overhead() int       { return testOverhead }

func (r *fakeRoute) probe(size int, answered func()) error {
	r.sent.Add(1)
	if int64(size+testOverhead) <= r.mtu.Load() {
		time.AfterFunc(10*time.Millisecond, answered)
	}
	return nil
}

// result is what a discovery has found.
type result struct{ Size, MTU int }

// discover begins a discovery on a route with the given MTU.
func discover(t *testing.T, mtu int) (e *PeerEndpoint, r *fakeRoute, found chan result) {
	b := New(Options{})
	t.Cleanup(func() { b.Shutdown() })
	e, r, found = b.Peer(testKey(1)), new(fakeRoute), make(chan result, 100)
	e.SetPath(NewDirectPath(netip.Addr{}, netip.MustParseAddrPort("192.0.2.1:1")))
	r.mtu.Store(int64(mtu))
	r.local.Store(1500)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.discoverLocked(Discovery{Full: fullDatagram, Found: func(size, mtu int) { found <- result{size, mtu} }}, r)
	return e, r, found
}

// send gives the bind a datagram, which goes nowhere as the bind is closed.
func (e *PeerEndpoint) send(size int) { _ = e.bind.Send([][]byte{transport(size, 1)}, e) }

func results(found chan result) (all []result) {
	for len(found) > 0 {
		all = append(all, <-found)
	}
	return all
}

func TestDiscover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, r, found := discover(t, 1500)
		defer e.bind.Shutdown()
		want := func(what string, want ...result) {
			t.Helper()
			<-time.After(10 * time.Second)
			synctest.Wait()
			if diff := cmp.Diff(want, results(found)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		want("a path of full size", result{fullDatagram, 1480})
		sent := r.sent.Load()
		r.mtu.Store(1280)
		e.send(pmtu.Base)
		want("small datagrams")
		if n := r.sent.Load() - sent; n > 0 {
			t.Errorf("%d probes on an idle path", n)
		}
		e.send(fullDatagram)
		want("a path that has shrunk", result{1252, 1280})
		e.send(pmtu.Base + 1)
		want("a path as before")
		r.local.Store(1200)
		e.send(pmtu.Base + 1)
		want("a host that knows of a smaller MTU", result{1168, 1196})

		// A path that is replaced is left alone.
		e.send(pmtu.Base + 1)
		synctest.Wait()
		e.SetPath(NewDirectPath(netip.Addr{}, netip.MustParseAddrPort("192.0.2.1:2")))
		sent = r.sent.Load()
		e.send(fullDatagram)
		want("a replaced path")
		if n := r.sent.Load() - sent; n > 0 {
			t.Errorf("%d probes on a replaced path", n)
		}
	})
}

func TestDiscoverNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, found := discover(t, 0)
		<-time.After(10 * time.Second)
		if diff := cmp.Diff([]result{{}}, results(found)); diff != "" {
			t.Errorf("nobody answers (-want +got):\n%s", diff)
		}
		e.mu.Lock()
		e.discoverLocked(Discovery{Full: fullDatagram, Found: func(size, mtu int) { found <- result{size, mtu} }}, &fakeRoute{err: errors.New("not known")})
		e.mu.Unlock()
		<-time.After(10 * time.Second)
		if diff := cmp.Diff([]result{{}}, results(found)); diff != "" {
			t.Errorf("the system tells nothing (-want +got):\n%s", diff)
		}
		e.bind.Shutdown()
	})
}

// A discovery that watches looks at each batch, and allocates nothing.
func TestWatchNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	// Nobody receives, as that would allocate here.
	b := newEnd(t, 0, netip.MustParseAddr("127.0.0.1"))
	e := b.Peer(testKey(1))
	e.SetPath(NewDirectPath(netip.Addr{}, b.at))
	e.watch.Store(&discovery{endpoint: e})
	bufs := make([][]byte, batchSize)
	for i := range bufs {
		bufs[i] = transport(pmtu.Base, uint32(i))
	}
	if n := testing.AllocsPerRun(50, func() { b.Send(bufs, e) }); n > 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
