package session

import (
	"bytes"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun"

	"github.com/wice-go/wice-go/proto"
)

var (
	renewalPeer = netip.MustParseAddrPort("192.0.2.1:7")
	bindSuccess = stun.NewType(stun.MethodChannelBind, stun.ClassSuccessResponse)
	bindError   = stun.NewType(stun.MethodChannelBind, stun.ClassErrorResponse)
)

// scripted is a TURN server and the channel to it.
type scripted struct {
	t    *testing.T
	r    renewal
	sent []*stun.Message // by the renewal
}

func newScripted(t *testing.T) *scripted {
	return &scripted{t: t, r: renewal{servers: []proto.ICEServer{
		{Username: "other", Password: "secret"}, {Username: "user", Password: "of another server"}, {Username: "user", Password: "secret"},
	}}}
}

// answer has the server answer a request, and returns what the client sees: nil if nothing.
func (s *scripted) answer(id [stun.TransactionIDSize]byte, setters ...stun.Setter) *stun.Message {
	s.t.Helper()
	b := stun.MustBuild(setters...)
	b.TransactionID = id
	b.WriteHeader()
	if s.r.received(b.Raw, func(m []byte) { s.sent = append(s.sent, decoded(s.t, m)) }) {
		return nil
	}
	return decoded(s.t, b.Raw)
}

func (s *scripted) stale(id [stun.TransactionIDSize]byte, nonce string) *stun.Message {
	s.t.Helper()
	return s.answer(id, bindError, stun.CodeStaleNonce, stun.NewRealm("test"), stun.NewNonce(nonce))
}

func decoded(t *testing.T, b []byte) *stun.Message {
	t.Helper()
	m := &stun.Message{Raw: bytes.Clone(b)}
	if err := m.Decode(); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestRenewal(t *testing.T) {
	s := newScripted(t)
	first := channelBind(t, 0x4000, renewalPeer, "old")
	if got := s.r.sent(first.Raw); !bytes.Equal(got, first.Raw) {
		t.Errorf("the request was changed: %x", got)
	}
	if s.stale(first.TransactionID, "new") != nil || len(s.sent) != 1 {
		t.Fatalf("the client saw that the nonce was stale; sent again: %v", s.sent)
	}
	second := s.sent[0]
	var nonce stun.Nonce
	var peer stun.XORMappedAddress
	number, _ := second.Get(stun.AttrChannelNumber)
	if nonce.GetFrom(second) != nil || nonce.String() != "new" || peer.GetFromAs(second, stun.AttrXORPeerAddress) != nil ||
		peer.String() != renewalPeer.String() || !bytes.Equal(number, []byte{0x40, 0, 0, 0}) || second.TransactionID == first.TransactionID {
		t.Errorf("got %v for %v", second, first)
	}
	if err := stun.NewLongTermIntegrity("user", "test", "secret").Check(second); err != nil {
		t.Errorf("the signature: %v", err)
	}
	if err := stun.Fingerprint.Check(second); err != nil {
		t.Error(err)
	}

	// The client knows nothing of it and repeats the first request: with the old nonce it would be refused again, and the second may
	// have been lost.
	for range 3 {
		if got := s.r.sent(first.Raw); !bytes.Equal(got, second.Raw) {
			t.Errorf("repeated %x, want the second request", got)
		}
	}
	// Those that were under way are refused.
	if s.stale(first.TransactionID, "new") != nil || len(s.sent) != 1 {
		t.Errorf("sent %d requests, want 1", len(s.sent))
	}
	if got := s.answer(second.TransactionID, bindSuccess); got == nil || got.Type != bindSuccess || got.TransactionID != first.TransactionID {
		t.Errorf("got %v, want success of the first request", got)
	}
	// A second answer to the second is nobody's, which pion does not mind.
	if got := s.answer(second.TransactionID, bindSuccess); got == nil || got.TransactionID != second.TransactionID {
		t.Errorf("got %v", got)
	}
	if len(s.r.requests)+len(s.r.again) != 0 {
		t.Errorf("left: %v, %v", s.r.requests, s.r.again)
	}
}

// An address of IPv6 is encoded with the transaction (RFC 8489, section 14.2), of which the second request has another.
func TestRenewalIPv6(t *testing.T) {
	s := newScripted(t)
	peer := netip.MustParseAddrPort("[2001:db8::7]:7")
	first := channelBind(t, 0x4000, peer, "old")
	s.r.sent(first.Raw)
	if s.stale(first.TransactionID, "new") != nil || len(s.sent) != 1 {
		t.Fatalf("sent again: %v", s.sent)
	}
	var got stun.XORMappedAddress
	if err := got.GetFromAs(s.sent[0], stun.AttrXORPeerAddress); err != nil || !got.IP.Equal(peer.Addr().AsSlice()) || got.Port != int(peer.Port()) {
		t.Errorf("asked for a channel to %s, %v; want %s", got, err, peer)
	}
}

// A nonce that is always stale is the client's affair after one try.
func TestRenewalEnds(t *testing.T) {
	s := newScripted(t)
	first := channelBind(t, 0x4000, renewalPeer, "old")
	s.r.sent(first.Raw)
	s.stale(first.TransactionID, "1")
	if got := s.stale(s.sent[0].TransactionID, "2"); got == nil || got.Type != bindError || got.TransactionID != first.TransactionID || len(s.sent) != 1 {
		t.Errorf("got %v after %d requests", got, len(s.sent))
	}
}

func TestRenewalLeavesAlone(t *testing.T) {
	code := func(c stun.ErrorCode) []stun.Setter { return []stun.Setter{bindError, c, stun.NewNonce("new")} }
	for _, c := range []struct {
		name   string
		server proto.ICEServer
		answer []stun.Setter
	}{
		{"success", proto.ICEServer{Username: "user", Password: "secret"}, []stun.Setter{bindSuccess}},
		{"another error", proto.ICEServer{Username: "user", Password: "secret"}, code(stun.CodeInsufficientCapacity)},
		{"unauthorized", proto.ICEServer{Username: "user", Password: "secret"}, code(stun.CodeUnauthorized)},
		{"no code", proto.ICEServer{Username: "user", Password: "secret"}, []stun.Setter{bindError}},
		{"no nonce", proto.ICEServer{Username: "user", Password: "secret"}, []stun.Setter{bindError, stun.CodeStaleNonce}},
		{"unknown user", proto.ICEServer{Username: "someone", Password: "secret"}, code(stun.CodeStaleNonce)},
		{"another password", proto.ICEServer{Username: "user", Password: "another"}, code(stun.CodeStaleNonce)},
	} {
		s := newScripted(t)
		s.r.servers = []proto.ICEServer{c.server}
		first := channelBind(t, 0x4000, renewalPeer, "old")
		s.r.sent(first.Raw)
		if got := s.answer(first.TransactionID, c.answer...); got == nil || got.TransactionID != first.TransactionID || len(s.sent) != 0 {
			t.Errorf("%s: got %v, sent %v", c.name, got, s.sent)
		}
		if len(s.r.requests)+len(s.r.again) != 0 {
			t.Errorf("%s: %d requests left", c.name, len(s.r.requests))
		}
	}
	// A request that is not signed has no nonce that could be stale.
	s := newScripted(t)
	first := channelBind(t, 0x4000, renewalPeer, "")
	s.r.sent(first.Raw)
	if s.stale(first.TransactionID, "new") == nil || len(s.sent) != 0 {
		t.Errorf("sent %v", s.sent)
	}
	// An answer that nobody asked for.
	if s.stale(stun.NewTransactionID(), "new") == nil || len(s.sent) != 0 {
		t.Errorf("sent %v", s.sent)
	}
}

func TestRenewalIsBounded(t *testing.T) {
	s := newScripted(t)
	for i := range 10 * maxRenewals {
		m := channelBind(t, uint16(0x4000+i), renewalPeer, "old")
		s.r.sent(m.Raw)
		if i%2 == 0 {
			s.stale(m.TransactionID, "new")
		}
	}
	if len(s.r.requests) > maxRenewals || len(s.r.again) > maxRenewals {
		t.Errorf("%d requests and %d second ones are remembered", len(s.r.requests), len(s.r.again))
	}
}

func FuzzRenewalReceived(f *testing.F) {
	first := channelBind(f, 0x4000, renewalPeer, "old")
	stale := stun.MustBuild(bindError, stun.CodeStaleNonce, stun.NewRealm("test"), stun.NewNonce("new"))
	stale.TransactionID = first.TransactionID
	stale.WriteHeader()
	f.Add(first.Raw, stale.Raw)
	f.Add(first.Raw[:20], stale.Raw)
	f.Add(first.Raw, stale.Raw[:20])
	f.Fuzz(func(t *testing.T, request, response []byte) {
		r := renewal{servers: []proto.ICEServer{{Username: "user", Password: "secret"}}}
		if got := r.sent(request); !bytes.Equal(got, request) {
			t.Errorf("%x was sent as %x", request, got)
		}
		sent := 0
		swallowed := r.received(bytes.Clone(response), func(b []byte) {
			sent++
			m := decoded(t, b)
			if err := stun.NewLongTermIntegrity("user", "test", "secret").Check(m); err != nil {
				t.Errorf("%x: %v", b, err)
			}
		})
		if swallowed != (sent == 1) {
			t.Errorf("swallowed %v, sent %d", swallowed, sent)
		}
	})
}

// scriptedConn is the socket of a TURN server that treats ChannelBind requests by a script: 's' calls the nonce stale, also when the
// request is repeated, 'l' loses the request. What comes after the script is the server's.
type scriptedConn struct {
	net.PacketConn

	mu     sync.Mutex // guards the following
	script string
	stale  map[transactionID]bool
	binds  int // requests
	data   int // ChannelData
}

func (c *scriptedConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.PacketConn.ReadFrom(b)
		if err != nil || n < stunHeader || !c.refuses(b[:n], from) {
			return n, from, err
		}
	}
}

func (c *scriptedConn) refuses(b []byte, from net.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b[0] == 0x40 {
		c.data++
	}
	if b[0] != 0 || b[1] != 9 {
		return false
	}
	c.binds++
	id := transactionID(b[8:])
	switch {
	case c.stale[id]:
	case c.script == "":
		return false
	default:
		c.stale[id] = c.script[0] == 's'
		c.script = c.script[1:]
	}
	if c.stale[id] {
		m := &stun.Message{Raw: bytes.Clone(b)}
		var nonce stun.Nonce
		if m.Decode() == nil && nonce.GetFrom(m) == nil { // which the server will take
			r := stun.MustBuild(bindError, stun.CodeStaleNonce, stun.NewRealm("test"), nonce)
			r.TransactionID = m.TransactionID
			r.WriteHeader()
			_, _ = c.PacketConn.WriteTo(r.Raw, from)
		}
	}
	return true
}

// TestRenewalOfChannel: the client gets its channel though the nonce was stale, and though the second request was lost.
func TestRenewalOfChannel(t *testing.T) {
	for _, c := range []struct {
		script string
		binds  int
		bound  bool
	}{{"", 1, true}, {"s", 2, true}, {"sl", 3, true}, {"lsl", 4, true}, {"ss", 2, false}} {
		t.Run(c.script, func(t *testing.T) {
			s := newTURNServers(t)
			s.script.mu.Lock()
			s.script.script, s.script.stale = c.script, make(map[transactionID]bool)
			s.script.mu.Unlock()
			pc, err := s.net(t.Context()).ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			relay := allocate(t, pc, s.overUDP)
			peer, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			peer.SetReadDeadline(time.Now().Add(patience))
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for i := 0; ; i++ {
				if _, err := relay.WriteTo([]byte("data for the peer"), peer.LocalAddr()); err != nil {
					t.Fatal(err)
				}
				if _, _, err := peer.ReadFrom(make([]byte, 100)); err != nil {
					t.Fatal(err)
				}
				s.script.mu.Lock()
				binds, bound := s.script.binds, s.script.data > 0
				s.script.mu.Unlock()
				if bound || i == 500 || !c.bound && binds == c.binds && i > 50 {
					if binds != c.binds || bound != c.bound {
						t.Errorf("after %d requests bound: %v; want %d, %v", binds, bound, c.binds, c.bound)
					}
					return
				}
				<-tick.C
			}
		})
	}
}
