package session

import (
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/ice/v2"
	"github.com/pion/stun"

	"github.com/wice-go/wice-go/proto"
)

// faultMux loses everything while it is blocked, in both directions.
type faultMux struct {
	ice.UniversalUDPMux
	blocked atomic.Bool
}

func (m *faultMux) GetConn(ufrag string, addr net.Addr) (net.PacketConn, error) {
	return m.wrap(m.UniversalUDPMux.GetConn(ufrag, addr))
}

func (m *faultMux) GetConnForURL(ufrag, url string, addr net.Addr) (net.PacketConn, error) {
	return m.wrap(m.UniversalUDPMux.GetConnForURL(ufrag, url, addr))
}

func (m *faultMux) wrap(c net.PacketConn, err error) (net.PacketConn, error) {
	if err != nil {
		return nil, err
	}
	return &faultConn{c, &m.blocked}, nil
}

type faultConn struct {
	net.PacketConn
	blocked *atomic.Bool
}

func (c *faultConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	if c.blocked.Load() {
		return len(b), nil
	}
	return c.PacketConn.WriteTo(b, addr)
}

func (c *faultConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, addr, err := c.PacketConn.ReadFrom(b)
		if err != nil || !c.blocked.Load() {
			return n, addr, err
		}
	}
}

// newFaultySide makes a side whose shared sockets can be blocked, with timeouts that suit a test.
func newFaultySide(t *testing.T, w *wire, first bool, limits timeouts, servers ...proto.ICEServer) (*side, *atomic.Bool) {
	t.Helper()
	local, remote := keys()
	if !first {
		local, remote = remote, local
	}
	var m *faultMux
	d := newSide(t, w, local, remote, func(o *Options) {
		m = &faultMux{UniversalUDPMux: o.Mux}
		o.Mux, o.timeouts = m, limits
		o.ICEServers = func() []proto.ICEServer { return servers }
	})
	return d, &m.blocked
}

// The direct path dies: the relay takes over without a moment of no path, and a later session is direct again.
func TestDirectRelayDirect(t *testing.T) {
	_, udp, _ := newTURN(t)
	w := newWire(0)
	limits := timeouts{keepalive: 100 * time.Millisecond, disconnected: 500 * time.Millisecond, failed: 20 * time.Second}
	a, blockA := newFaultySide(t, w, true, limits, udp)
	b, blockB := newFaultySide(t, w, false, limits, udp)
	a.s.Start()
	pa, pb := a.path(0), b.path(0)
	for pa.Relayed || pb.Relayed { // on a busy machine the relayed pair can be the first that works
		a.s.Restart("what the timer of relayed connections does")
		pa, pb = a.path(pa.Generation), b.path(pb.Generation)
	}
	if !pa.Direct {
		t.Fatalf("got %+v", pa)
	}
	blockA.Store(true)
	blockB.Store(true)
	ra, rb := a.path(pa.Generation), b.path(pb.Generation) // fail if the path is dropped in between
	if !ra.Relayed || !rb.Relayed {
		t.Fatalf("got %+v and %+v", ra, rb)
	}
	transfer(t, ra, rb)
	a.until(func(st Status) bool { return st.State == Connected && strings.HasPrefix(st.Reason, "relayed") })

	blockA.Store(false)
	blockB.Store(false)
	da, db := ra, rb
	for da.Relayed || db.Relayed { // as above
		ra, rb = da, db
		a.s.Restart("what the timer of relayed connections does")
		da, db = a.path(ra.Generation), b.path(rb.Generation)
	}
	if time.Since(time.Unix(0, min(a.switched.Load(), b.switched.Load()))) < closeGrace/2 { // on a busy machine it can be longer
		transfer(t, ra, rb) // what is still under way on the relay arrives
	}
	transfer(t, da, db)
	a.until(func(st Status) bool { return st.State == Connected && st.Reason == "" })
}

// Packets and offers stop: the path is given up only when the agent fails, and everything comes back by itself.
func TestDisconnectedThenFailed(t *testing.T) {
	w := newWire(0)
	limits := timeouts{keepalive: 100 * time.Millisecond, disconnected: 500 * time.Millisecond, failed: 2 * time.Second}
	a, blockA := newFaultySide(t, w, true, limits)
	b, blockB := newFaultySide(t, w, false, limits)
	a.s.Start()
	b.s.Start()
	pa, pb := a.path(0), b.path(0)
	blockA.Store(true)
	blockB.Store(true)
	w.setCut(true)
	a.until(func(st Status) bool {
		return st.State == Connecting && st.Path != nil && strings.Contains(st.Reason, "does not answer any more; no offer")
	})
	for _, d := range []*side{a, b} {
		d.until(func(st Status) bool { return st.State == Connecting && st.Path == nil })
		if p := <-d.paths; p != nil {
			t.Fatalf("got %+v, want no path", p)
		}
	}
	blockA.Store(false)
	blockB.Store(false)
	w.setCut(false)
	a.s.PeerAvailable()
	b.s.PeerAvailable()
	transfer(t, a.path(pa.Generation), b.path(pb.Generation))
}

// A TURN server that dies in the middle of an allocation holds up nobody who wants to end.
func TestCloseWithDyingRelay(t *testing.T) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 100) // a request each
	var server sync.WaitGroup
	server.Go(func() { // asks for credentials, and does not say a word when they come
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			req := &stun.Message{Raw: b[:n]}
			if req.Decode() != nil {
				continue
			}
			if !req.Contains(stun.AttrUsername) {
				answer := stun.MustBuild(req, stun.NewType(req.Type.Method, stun.ClassErrorResponse), stun.CodeUnauthorized,
					stun.NewRealm("test"), stun.NewNonce("nonce"))
				c.WriteToUDPAddrPort(answer.Raw, from)
				continue
			}
			asked <- struct{}{}
		}
	})
	t.Cleanup(func() { c.Close(); server.Wait() })
	w := newWire(0)
	ka, kb := keys()
	only := func(o *Options) {
		o.CandidateTypes = []proto.CandidateType{proto.Relay}
		o.ICEServers = func() []proto.ICEServer {
			return []proto.ICEServer{{Scheme: proto.TURN, Host: "127.0.0.1", Port: uint16(c.LocalAddr().(*net.UDPAddr).Port),
				Transport: proto.TransportUDP, Username: "u", Password: "p"}}
		}
	}
	a := newSide(t, w, ka, kb, only)
	newSide(t, w, kb, ka, only)
	a.s.Start()
	<-asked
	// side.close, at the end of the test, fails if it takes long
}
