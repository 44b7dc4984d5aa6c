package bind

import (
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"
	"weak"

	"golang.zx2c4.com/wireguard/conn"
)

var (
	relayLocal  = netip.MustParseAddrPort("192.0.2.1:49152")
	relayRemote = netip.MustParseAddrPort("192.0.2.2:49152")
)

// connPath gives the peer a path over one end of a pipe and returns the other end.
func connPath(t *testing.T, e *PeerEndpoint) (near, far net.Conn) {
	t.Helper()
	near, far = net.Pipe()
	t.Cleanup(func() {
		near.Close()
		far.Close()
	})
	e.SetPath(NewConnPath(near, relayLocal, relayRemote))
	return near, far
}

func readPacket(t *testing.T, c net.Conn) []byte {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 1<<16)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

func TestConnPath(t *testing.T) {
	b := openBind(t, Options{})
	e := b.Peer(testKey(1))
	if err := b.Send([][]byte{initiation(7)}, e); err != nil {
		t.Fatal(err)
	}
	near, far := connPath(t, e)
	if !e.FlushHeld() {
		t.Error("nothing was held")
	}
	if got := readPacket(t, far); !isInitiation(got) || got[8] != 7 {
		t.Errorf("got % x, want the held initiation", got)
	}
	if err := b.Send([][]byte{transport(1452, 1), transport(5000, 2)}, e); err != nil {
		t.Fatal(err)
	}
	for i, size := range []int{1452, 5000} {
		if got := readPacket(t, far); len(got) != size || number(got) != uint32(i+1) {
			t.Errorf("got packet %d of %d bytes, want %d of %d", number(got), len(got), i+1, size)
		}
	}
	far.Write([]byte("something else that is long enough to be looked at"))
	far.Write(transport(3000, 3))
	if got := b.next(t); number(got.data) != 3 || len(got.data) != 3000 || got.ep != conn.Endpoint(e) {
		t.Errorf("got packet %d of %d bytes from %v", number(got.data), len(got.data), got.ep)
	}
	if e.DstToString() != relayRemote.String() || e.SrcIP() != relayLocal.Addr() || e.Path().Direct() {
		t.Errorf("got %s -> %s", e.SrcIP(), e.DstToString())
	}

	// The connection outlives the sockets.
	b.Close()
	b.start(t, 0)
	far.Write(transport(64, 4))
	if got := b.next(t); number(got.data) != 4 {
		t.Errorf("got packet %d, want 4", number(got.data))
	}

	// Another pair of the same connection: nothing is read twice.
	e.SetPath(NewConnPath(near, relayLocal, netip.MustParseAddrPort("192.0.2.3:1")))
	if len(e.links) != 1 {
		t.Errorf("%d links for one connection", len(e.links))
	}
	// A direct path replaces the connection, which is heard for a while longer.
	e.SetPath(NewDirectPath(netip.Addr{}, netip.MustParseAddrPort("127.0.0.1:9")))
	far.Write(transport(64, 5))
	if got := b.next(t); number(got.data) != 5 || got.ep != conn.Endpoint(e) {
		t.Errorf("got packet %d, want 5", number(got.data))
	}
	// Dropping the peer ends the goroutines, though the connection stays open: goleak looks.
	b.RemovePeer(testKey(1))
	b.relay.wg.Wait()
}

// failedConn is what an agent that has failed does: it takes nothing, without an error.
type failedConn struct{ net.Conn }

func (failedConn) Write([]byte) (int, error) { return 0, nil }

// TestSlowConn sends more than a connection takes. Send never waits.
func TestSlowConn(t *testing.T) {
	b := openBind(t, Options{})
	e := b.Peer(testKey(1))
	connPath(t, e) // nobody reads
	var bufs [][]byte
	for i := range 1000 {
		bufs = append(bufs, transport(100, uint32(i)))
	}
	if err := b.Send(bufs, e); err != nil {
		t.Fatal(err)
	}
	// One batch may have left the queue.
	if d := b.Stats().RelaySendFull; d < uint64(len(bufs)-pumpQueue-64) || d > uint64(len(bufs)-pumpQueue) {
		t.Errorf("%d packets dropped of %d", d, len(bufs))
	}

	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	e.SetPath(NewConnPath(failedConn{near}, relayLocal, relayRemote))
	before := b.Stats().RelaySendFull
	if err := b.Send([][]byte{transport(100, 1)}, e); err != nil {
		t.Fatal(err)
	}
	await(t, "count of the packet that went nowhere", func() bool { return b.Stats().RelaySendFull > before })
}

func TestQueue(t *testing.T) {
	q := newQueue(3)
	var ps []*packet
	for i := range 5 {
		ps = append(ps, newPacket([]byte{byte(i)}))
	}
	if n := q.push(ps...); n != 3 {
		t.Errorf("pushed %d, want 3", n)
	}
	var out [2]*packet
	for _, want := range [][]byte{{0, 1}, {2}} {
		select {
		case <-q.ready:
		default:
			t.Fatal("not ready")
		}
		n := q.pop(out[:])
		if n != len(want) {
			t.Fatalf("popped %d, want %d", n, len(want))
		}
		for i, p := range out[:n] {
			if p.data[0] != want[i] {
				t.Errorf("got %d, want %d", p.data[0], want[i])
			}
		}
	}
	if n := q.push(ps[3:]...); n != 2 {
		t.Errorf("pushed %d, want 2", n)
	}
	q.close()
	q.close()
	if n := q.push(newPacket(nil)); n != 0 {
		t.Error("pushed to a closed queue")
	}
	if n := q.pop(out[:]); n != 0 {
		t.Error("popped from a closed queue")
	}
}

// TestRemovedEndpointLetsGo keeps an endpoint after its peer is gone, as WireGuard's receiving goroutines do.
func TestRemovedEndpointLetsGo(t *testing.T) {
	b := openBind(t, Options{})
	e := b.Peer(testKey(1))
	near, far := net.Pipe()
	defer far.Close()
	c := &struct{ net.Conn }{near}
	known := weak.Make(c)
	e.SetPath(NewConnPath(c, relayLocal, relayRemote))
	b.RemovePeer(e.PublicKey())
	c.Close()
	for deadline := time.Now().Add(20 * time.Second); known.Value() != nil; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatal("the endpoint refers to its connection")
		}
	}
	if got := e.DstIP(); got != relayRemote.Addr() {
		t.Errorf("got %s for what still arrives, want %s", got, relayRemote.Addr())
	}
}
