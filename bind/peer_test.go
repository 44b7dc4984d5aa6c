package bind

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

func initiation(n byte) []byte {
	b := make([]byte, initiationSize)
	b[0], b[8] = typeInitiation, n
	return b
}

func TestHeldInitiation(t *testing.T) {
	a, b := openBind(t, Options{}), openBind(t, Options{})
	e := a.Peer(testKey(1))
	calls := 0
	e.SetWanted(func() { calls++ })
	for _, bufs := range [][][]byte{{initiation(1)}, {transport(64, 9), initiation(2), transport(64, 10)}, {transport(64, 11)}} {
		if err := a.Send(bufs, e); err != nil {
			t.Fatal(err)
		}
	}
	if calls != 3 {
		t.Errorf("the callback was called %d times, want 3", calls)
	}
	if e.FlushHeld() {
		t.Error("flushed without a path")
	}
	e.SetPath(NewDirectPath(netip.Addr{}, b.addr4()))
	if !e.FlushHeld() || e.FlushHeld() {
		t.Error("the held initiation is to go out once")
	}
	if got := b.next(t); !bytes.Equal(got.data, initiation(2)) {
		t.Errorf("got % x, want the newest initiation", got.data)
	}
	// What comes later goes out at once.
	e.SetPath(NewDirectPath(netip.Addr{}, b.addr6()))
	if err := a.Send([][]byte{transport(64, 12)}, e); err != nil {
		t.Fatal(err)
	}
	if got := b.next(t); len(got.data) != 64 || number(got.data) != 12 {
		t.Errorf("got % x, want packet 12", got.data)
	}
	if calls != 3 {
		t.Errorf("the callback was called %d times, want 3", calls)
	}
	e.SetPath(nil)
	e.SetWanted(nil)
	if err := a.Send([][]byte{initiation(3)}, e); err != nil {
		t.Fatal(err)
	}
	// A removed peer holds nothing. WireGuard may have its endpoint all the same.
	a.RemovePeer(testKey(1))
	e.SetPath(NewDirectPath(netip.Addr{}, b.addr4()))
	if e.Path() != nil || e.held != nil {
		t.Error("a removed endpoint is alive")
	}
	if err := a.Send([][]byte{initiation(4)}, e); err != nil || e.held != nil {
		t.Errorf("a removed endpoint held a packet (%v)", err)
	}
	if got := b.next(t); !bytes.Equal(got.data, initiation(4)) || e.DstToString() != b.addr4().String() {
		t.Errorf("got % x to %s, want the initiation to where the last path led", got.data, e.DstToString())
	}
	next := a.Peer(testKey(1))
	if next == e {
		t.Error("the removed endpoint came back")
	}
	if err := a.Send([][]byte{initiation(5)}, e); err != nil || next.held == nil {
		t.Errorf("the packet does not wait for the path of the endpoint that is there now (%v)", err)
	}
}

// TestRemovedRelayedSendsNothing has a peer that was reached through a relay removed: nothing goes to it from an address of ours, which it may not know.
func TestRemovedRelayedSendsNothing(t *testing.T) {
	a, b := openBind(t, Options{}), openBind(t, Options{})
	near, _ := net.Pipe()
	defer near.Close()
	e := a.Peer(testKey(1))
	e.SetPath(NewDirectPath(netip.Addr{}, b.addr4()))
	e.SetPath(NewConnPath(near, relayLocal, b.addr4()))
	a.RemovePeer(testKey(1))
	if err := a.Send([][]byte{initiation(1)}, e); err != nil || a.Stats().NoPath != 1 {
		t.Errorf("got %v and %d packets without a path, want 1", err, a.Stats().NoPath)
	}
	if got := e.DstToString(); got != NoEndpoint {
		t.Errorf("got %s, want no endpoint", got)
	}
}

func TestEndpointTexts(t *testing.T) {
	b := New(Options{})
	defer b.Shutdown()
	e := b.Peer(testKey(1))
	if got := e.DstToString(); got != NoEndpoint {
		t.Errorf("without a path: got %q, want %q", got, NoEndpoint)
	}
	if e.DstIP().IsValid() || len(e.DstToBytes()) != len(dstBytes(netip.AddrPort{})) || e.SrcToString() != "" {
		t.Error("without a path there are addresses")
	}
	remote := netip.MustParseAddrPort("[2001:db8::1]:9")
	e.SetPath(NewDirectPath(netip.MustParseAddr("2001:db8::2"), remote))
	plain, _ := b.ParseEndpoint(remote.String())
	if e.DstToString() != "[2001:db8::1]:9" || !bytes.Equal(e.DstToBytes(), plain.DstToBytes()) || e.DstIP() != plain.DstIP() || e.SrcToString() != "2001:db8::2" {
		t.Errorf("got %s from %s", e.DstToString(), e.SrcToString())
	}
	// ICE has selected this source: WireGuard's attempt at another one does nothing.
	e.ClearSrc()
	if e.SrcToString() != "2001:db8::2" {
		t.Errorf("source %q after ClearSrc", e.SrcToString())
	}
	// What still arrives after the path is gone came from there.
	e.SetPath(nil)
	if e.DstToString() != NoEndpoint || e.DstIP() != remote.Addr() {
		t.Errorf("got %s, %s", e.DstToString(), e.DstIP())
	}
	if e.PublicKey() != testKey(1) {
		t.Error("wrong key")
	}
}

// TestHeldTooLong is about an initiation that WireGuard has replaced or given up.
func TestHeldTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{})
		defer b.Shutdown()
		e := b.Peer(testKey(1))
		if err := b.Send([][]byte{initiation(1)}, e); err != nil {
			t.Fatal(err)
		}
		<-time.After(heldLifetime)
		e.SetPath(NewDirectPath(netip.Addr{}, netip.MustParseAddrPort("127.0.0.1:9")))
		if e.FlushHeld() {
			t.Error("an old initiation went out")
		}
	})
}

// TestGrace checks how long the source of a replaced path belongs to the peer.
func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{})
		defer b.Shutdown()
		old, next := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:1")
		e := b.Peer(testKey(1))
		p := NewDirectPath(netip.Addr{}, old)
		e.SetPath(p)
		e.SetPath(NewDirectPath(netip.Addr{}, next))
		<-time.After(pathGrace - time.Second)
		if b.table.lookup(sourceOf(old)) != e {
			t.Error("the previous source is unknown in the grace period")
		}
		// The same path again, while it is being retired: it stays.
		e.SetPath(p)
		<-time.After(time.Minute)
		if b.table.lookup(sourceOf(old)) != e {
			t.Error("the source of the current path is unknown")
		}
		if b.table.lookup(sourceOf(next)) != nil {
			t.Error("the previous source is known after the grace period")
		}
		if len(e.retired) != 0 {
			t.Errorf("%d paths are left over", len(e.retired))
		}
	})
}

// TestSourcesOfPeer sends from the remotes of a peer's paths and from elsewhere.
func TestSourcesOfPeer(t *testing.T) {
	b := openBind(t, Options{})
	e := b.Peer(testKey(1))
	send := func(from *testBind, to netip.AddrPort) conn.Endpoint {
		t.Helper()
		if err := from.Send([][]byte{transport(64, 1)}, endpointTo(t, from, to)); err != nil {
			t.Fatal(err)
		}
		return b.next(t).ep
	}
	x, y := openBind(t, Options{}), openBind(t, Options{})
	if _, plain := send(x, b.addr4()).(*Endpoint); !plain {
		t.Error("an unknown source has no plain endpoint")
	}
	if send(x, b.addr4()) != send(x, b.addr4()) {
		t.Error("two endpoints for one source")
	}
	e.SetPath(NewDirectPath(netip.Addr{}, x.addr4()))
	if got := send(x, b.addr4()); got != conn.Endpoint(e) {
		t.Errorf("got %v, want the peer's endpoint", got)
	}
	e.SetPath(NewStaticPath(y.addr4()))
	if got := send(y, b.addr4()); got != conn.Endpoint(e) {
		t.Errorf("got %v, want the peer's endpoint", got)
	}
	if got := send(x, b.addr4()); got != conn.Endpoint(e) {
		t.Errorf("got %v for the previous path, want the peer's endpoint", got)
	}
	if _, plain := send(y, b.addr6()).(*Endpoint); !plain {
		t.Error("an unknown source has no plain endpoint")
	}
}

func TestYieldedInitiation(t *testing.T) {
	a, b := openBind(t, Options{}), openBind(t, Options{})
	e := a.Peer(testKey(1))
	e.SetYield(true)
	e.SetPath(NewDirectPath(netip.Addr{}, b.addr4()))
	for _, buf := range [][]byte{initiation(1), transport(64, 9), initiation(2)} {
		if err := a.Send([][]byte{buf}, e); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.next(t); number(got.data) != 9 {
		t.Errorf("got % x, want packet 9: initiations wait, data does not", got.data)
	}
	if !e.FlushHeld() {
		t.Error("nothing was held")
	}
	if got := b.next(t); !bytes.Equal(got.data, initiation(2)) {
		t.Errorf("got % x, want the newest initiation", got.data)
	}
	// Flushing ends the yielding; ending it otherwise drops what waits.
	for _, yield := range []bool{false, true} {
		e.SetYield(yield)
		if err := a.Send([][]byte{initiation(3)}, e); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.next(t); !bytes.Equal(got.data, initiation(3)) {
		t.Errorf("got % x, want the initiation that was not held", got.data)
	}
	e.SetYield(false)
	if e.FlushHeld() {
		t.Error("what waited for the peer's handshake was sent after it")
	}
}
