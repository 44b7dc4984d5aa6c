package bind

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/stun"
	"github.com/pion/transport/v2/stdnet"
	turnclient "github.com/pion/turn/v2"
	"github.com/pion/turn/v4"
)

// newTURN starts a TURN server that serves UDP and TCP at one address of this machine. Its relays are at 127.0.0.1.
func newTURN(t *testing.T, host string) net.PacketConn {
	t.Helper()
	pc := udpConn(t, netip.AddrPortFrom(netip.MustParseAddr(host), 0).String())
	pc.SetReadBuffer(socketBuffer)
	ln, err := net.Listen("tcp", pc.LocalAddr().String())
	if errors.Is(err, errAddrInUse) {
		return newTURN(t, host) // another program has that port for TCP
	}
	if err != nil {
		t.Fatal(err)
	}
	relay := &turn.RelayAddressGeneratorStatic{RelayAddress: net.IPv4(127, 0, 0, 1), Address: "127.0.0.1"}
	srv, err := turn.NewServer(turn.ServerConfig{
		Realm:         "test",
		LoggerFactory: quiet(),
		AuthHandler: func(user, realm string, _ net.Addr) ([]byte, bool) {
			return turn.GenerateAuthKey(user, realm, "secret"), true
		},
		PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: pc, RelayAddressGenerator: relay}},
		ListenerConfigs:   []turn.ListenerConfig{{Listener: ln, RelayAddressGenerator: relay}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	return pc
}

func quiet() logging.LoggerFactory {
	f := logging.NewDefaultLoggerFactory()
	f.DefaultLogLevel = logging.LogLevelDisabled
	return f
}

// spied is what the TURN client sees of its connection.
type spied struct {
	net.PacketConn

	mu        sync.Mutex // guards the following
	wireGuard int        // packets in whatever the client sent and received
}

func (s *spied) look(b []byte) {
	_, data := parseChannelData(b)
	m := stun.Message{Raw: bytes.Clone(b)}
	if data == nil && m.Decode() == nil {
		data, _ = m.Get(stun.AttrData)
	}
	if isWireGuard(data) {
		s.mu.Lock()
		s.wireGuard++
		s.mu.Unlock()
	}
}

func (s *spied) ReadFrom(b []byte) (int, net.Addr, error) {
	n, addr, err := s.PacketConn.ReadFrom(b)
	if err == nil {
		s.look(b[:n])
	}
	return n, addr, err
}

func (s *spied) WriteTo(b []byte, addr net.Addr) (int, error) {
	s.look(b)
	return s.PacketConn.WriteTo(b, addr)
}

// anyNet resolves IPv6 for pion, which asks for IPv4 alone.
type anyNet struct{ *stdnet.Net }

func (anyNet) ResolveUDPAddr(_, address string) (*net.UDPAddr, error) {
	return net.ResolveUDPAddr("udp", address)
}

// relayed is a peer behind a relay of ours.
type relayed struct {
	*testBind
	e     *PeerEndpoint
	spy   *spied
	conn  net.PacketConn // the relay, as the TURN client sees it
	peer  *net.UDPConn
	other chan []byte // what went through the ICE connection
}

// newRelayed has pion's client allocate a relay and bind a channel to the peer.
func newRelayed(t *testing.T, connect func(*Bind) (carrier Carrier, pc net.PacketConn, server net.Addr)) *relayed {
	t.Helper()
	r := &relayed{testBind: openBind(t, Options{}), other: make(chan []byte, 1000)}
	carrier, pc, server := connect(r.Bind)
	r.spy = &spied{PacketConn: pc}
	client, err := turnclient.NewClient(&turnclient.ClientConfig{
		TURNServerAddr: server.String(), Conn: r.spy, Username: "user", Password: "secret", Net: anyNet{new(stdnet.Net)}, LoggerFactory: quiet(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		pc.Close()
	})
	if r.conn, err = client.Allocate(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.conn.Close() })
	r.peer = udpConn(t, "127.0.0.1:0")
	r.peer.SetReadBuffer(socketBuffer)
	to := r.peer.LocalAddr().(*net.UDPAddr)
	if _, err := udpConn(t, "127.0.0.1:0").WriteTo([]byte("of another program"), to); err != nil {
		t.Fatal(err)
	}

	near, far := net.Pipe()
	t.Cleanup(func() {
		near.Close()
		far.Close()
	})
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, err := far.Read(b)
			if err != nil {
				return
			}
			r.other <- bytes.Clone(b[:n])
		}
	}()
	r.e = r.Peer(testKey(1))
	r.e.SetPath(NewRelayPath(carrier, near, addrPortOf(r.conn.LocalAddr()), to.AddrPort()))

	// Without a channel the packet takes the other way.
	if err := r.Send([][]byte{transport(64, 99)}, r.e); err != nil {
		t.Fatal(err)
	}
	select {
	case b := <-r.other:
		if number(b) != 99 {
			t.Errorf("got packet %d", number(b))
		}
	case <-time.After(patience):
		t.Fatal("nothing came through the ICE connection")
	}

	if _, err := r.conn.WriteTo([]byte("hello"), to); err != nil {
		t.Fatal(err)
	}
	r.fromRelay(t)
	await(t, "a channel", func() bool { return carrier.carry(nil, to.AddrPort()) })
	return r
}

func addrPortOf(a net.Addr) netip.AddrPort { return unmapPort(a.(*net.UDPAddr).AddrPort()) }

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within %v", what, patience)
		}
	}
}

// fromRelay returns what the peer gets from the relay. Other programs of this machine may still send to who had the peer's port before it.
func (r *relayed) fromRelay(t *testing.T) []byte {
	t.Helper()
	r.peer.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 1<<16)
	for {
		n, from, err := r.peer.ReadFromUDPAddrPort(b)
		if err != nil {
			t.Fatalf("nothing from the relay %s: %v", r.conn.LocalAddr(), err)
		}
		if unmapPort(from) == addrPortOf(r.conn.LocalAddr()) {
			return b[:n]
		}
	}
}

// carriers are the ways to a TURN server.
var carriers = []struct {
	name    string
	host    string
	connect func(t *testing.T, b *Bind, server net.PacketConn) (Carrier, net.PacketConn)
}{
	{"udp4", "127.0.0.1", listenTURN("udp4", "127.0.0.1:0")},
	{"udp6", "::1", listenTURN("udp6", "[::1]:0")},
	{"both", "127.0.0.1", listenTURN("udp", ":0")},
	{"both6", "::1", listenTURN("udp", ":0")},
	{"tcp", "127.0.0.1", dialTURN},
	{"tcp6", "::1", dialTURN},
}

func listenTURN(network, address string) func(*testing.T, *Bind, net.PacketConn) (Carrier, net.PacketConn) {
	return func(t *testing.T, b *Bind, _ net.PacketConn) (Carrier, net.PacketConn) {
		s, err := b.ListenTURN(network, address)
		if err != nil {
			t.Fatal(err)
		}
		return s, s
	}
}

func dialTURN(t *testing.T, b *Bind, server net.PacketConn) (Carrier, net.PacketConn) {
	c, err := net.Dial("tcp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := b.NewTURNStream(c)
	return s, turnclient.NewSTUNConn(s)
}

func TestCarrier(t *testing.T) {
	for _, c := range carriers {
		t.Run(c.name, func(t *testing.T) {
			server := newTURN(t, c.host)
			r := newRelayed(t, func(b *Bind) (Carrier, net.PacketConn, net.Addr) {
				carrier, pc := c.connect(t, b, server)
				return carrier, pc, server.LocalAddr()
			})
			r.exchange(t)
			r.exchangeSTUN(t)
			r.spy.mu.Lock()
			defer r.spy.mu.Unlock()
			if r.spy.wireGuard > 0 {
				t.Errorf("the TURN client saw %d packets of WireGuard", r.spy.wireGuard)
			}
			select {
			case b := <-r.other:
				t.Errorf("packet %d went through the ICE connection", number(b))
			default:
			}
			if s := r.Stats(); s.RelaySendFull+s.RelayReceiveFull > 0 {
				t.Errorf("got %+v", s)
			}
		})
	}
}

// exchange sends packets of many sizes both ways.
func (r *relayed) exchange(t *testing.T) {
	t.Helper()
	to := addrPortOf(r.conn.LocalAddr())
	for _, count := range []int{1, 2, 128, 130} {
		for _, size := range []func(i int) int{
			func(int) int { return 1452 },
			func(i int) int { return 32 + (i*911)%1469 }, // up to 1500, hardly ever two alike
			func(i int) int { return 1452 - 1420*(i%2) },
			func(i int) int { return 32 + i%4 }, // all paddings
		} {
			var bufs [][]byte
			for i := range count {
				b := transport(size(i), uint32(i))
				if i%8 == 0 && len(b) >= 36 {
					binary.BigEndian.PutUint32(b[4:], stunCookie) // a receiver index like any other
				}
				bufs = append(bufs, b)
			}
			if err := r.Send(bufs, r.e); err != nil {
				t.Fatal(err)
			}
			for i, want := range bufs {
				if got := r.fromRelay(t); !bytes.Equal(got, want) {
					t.Fatalf("%d packets out: got packet %d of %d bytes, want %d of %d", count, number(got), len(got), i, len(want))
				}
			}
			for burst := range slices.Chunk(bufs, 32) { // the server's relay has a small buffer
				for _, b := range burst {
					if _, err := r.peer.WriteToUDPAddrPort(b, to); err != nil {
						t.Fatal(err)
					}
				}
				for _, want := range burst {
					got := r.next(t)
					if !bytes.Equal(got.data, want) || got.ep != r.e {
						t.Fatalf("%d packets in: got packet %d of %d bytes, want %d of %d", count, number(got.data), len(got.data), number(want), len(want))
					}
				}
			}
		}
	}
}

// exchangeSTUN: ICE's checks are the client's, both ways.
func (r *relayed) exchangeSTUN(t *testing.T) {
	t.Helper()
	check := bindingRequest(t, stun.NewUsername("abcd:efgh"), stun.Fingerprint)
	if _, err := r.peer.WriteToUDPAddrPort(check, addrPortOf(r.conn.LocalAddr())); err != nil {
		t.Fatal(err)
	}
	r.conn.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 1<<16)
	n, from, err := r.conn.ReadFrom(b)
	if err != nil || !bytes.Equal(b[:n], check) || from.String() != r.peer.LocalAddr().String() {
		t.Errorf("got %q from %v, %v; want the check", b[:n], from, err)
	}
	if _, err := r.conn.WriteTo(check, r.peer.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if got := r.fromRelay(t); !bytes.Equal(got, check) {
		t.Errorf("got %q, want the check", got)
	}
}

// bindChannel makes the carrier believe in a channel.
func bindChannel(t testing.TB, c *channels, peer netip.AddrPort, number uint16) {
	t.Helper()
	id := stun.NewTransactionID()
	c.sent(channelBind(t, id, peer, number))
	c.received(channelBound(id, true))
	if c.number(peer) != number {
		t.Fatalf("got channel %#x to %s, want %#x", c.number(peer), peer, number)
	}
}

func channelBind(t testing.TB, id txID, peer netip.AddrPort, number uint16) []byte {
	t.Helper()
	m := stun.New()
	m.TransactionID = id
	m.Type = stun.NewType(stun.MethodChannelBind, stun.ClassRequest)
	m.WriteHeader()
	m.Add(stun.AttrChannelNumber, []byte{byte(number >> 8), byte(number), 0, 0})
	a := stun.XORMappedAddress{IP: peer.Addr().AsSlice(), Port: int(peer.Port())}
	if err := a.AddToAs(m, stun.AttrXORPeerAddress); err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

// channelBound is the answer to such a request.
func channelBound(id txID, ok bool) []byte {
	m := stun.New()
	m.TransactionID = id
	m.Type = stun.NewType(stun.MethodChannelBind, stun.ClassSuccessResponse)
	if !ok {
		m.Type.Class = stun.ClassErrorResponse
	}
	m.WriteHeader()
	return m.Raw
}

// standIn is a UDP socket in place of a TURN server, and a peer behind it with a channel.
type standIn struct {
	*Bind
	t      *TURNSocket
	e      *PeerEndpoint
	server *socket
	to     *Endpoint // the client's socket
}

const standInChannel = 0x4000

func newStandIn(t testing.TB, b *Bind, addr string) *standIn {
	t.Helper()
	s := &standIn{Bind: b}
	host := netip.AddrPortFrom(netip.MustParseAddr(addr), 0).String()
	var err error
	if s.t, err = b.ListenTURN("udp", host); err != nil {
		t.Fatal(err)
	}
	conn := udpConn(t, host)
	if s.server, err = newSocket(conn, netip.MustParseAddr(addr).Is6()); err != nil {
		t.Fatal(err)
	}
	s.to = newEndpoint(addrPortOf(s.t.LocalAddr()), local{})
	if _, err := s.t.WriteTo([]byte("hello"), conn.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	bindChannel(t, &s.t.channels, relayRemote, standInChannel)
	near, far := net.Pipe()
	s.e = b.Peer(testKey(9))
	s.e.SetPath(NewRelayPath(s.t, near, relayLocal, relayRemote))
	t.Cleanup(func() {
		s.t.Close()
		near.Close()
		far.Close()
	})
	return s
}

// serve reads for the client until the socket is closed.
func (s *standIn) serve(t testing.TB) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1<<16)
		for {
			if _, _, err := s.t.ReadFrom(b); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		s.t.Close()
		<-done
	})
}

// TestRelayNoAllocations is the promise of relays over UDP.
func TestRelayNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, addr := range []string{"127.0.0.1", "::1"} {
		t.Run(addr, func(t *testing.T) {
			b := New(Options{})
			fns, _, err := b.Open(0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Shutdown() })
			s := newStandIn(t, b, addr)
			s.serve(t)
			receive := fns[len(fns)-1]
			bufs, sizes, eps := newBatch(b.BatchSize())
			out := make([][]byte, batchSize)
			for i := range out {
				out[i] = transport(1452-i%3, uint32(i))
			}
			send := func() {
				if err := b.Send(out, s.e); err != nil {
					t.Fatal(err)
				}
			}
			round := func() {
				if _, err := s.server.send(out, s.to, standInChannel); err != nil {
					t.Fatal(err)
				}
				for got := 0; got < len(out); {
					n, err := receive(bufs, sizes, eps)
					if err != nil {
						t.Fatal(err)
					}
					got += n
				}
			}
			for name, f := range map[string]func(){"send": send, "receive": round} {
				f() // fills caches and pools
				if n := testing.AllocsPerRun(50, f); n > 0 {
					t.Errorf("%s: %v allocations per %d packets, want 0", name, n, len(out))
				}
			}
			if st := b.Stats(); st.RelayReceiveFull > 0 {
				t.Errorf("got %+v", st)
			}
		})
	}
}

// Nothing that comes to the socket of a TURN client ends it, and nothing but the server's packets of a channel gets to WireGuard.
func TestTURNSocketSurvives(t *testing.T) {
	b := openBind(t, Options{})
	s := newStandIn(t, b.Bind, "127.0.0.1")
	seen := make(chan []byte, 100)
	done := make(chan error)
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := s.t.ReadFrom(buf)
			if err != nil {
				done <- err
				return
			}
			if from.String() != s.server.conn.LocalAddr().String() {
				t.Errorf("the client got something from %s", from)
			}
			seen <- bytes.Clone(buf[:n])
		}
	}()
	good := appendChannelData(nil, standInChannel, transport(100, 1))
	stranger := udpConn(t, "127.0.0.1:0")
	for _, m := range [][]byte{good, []byte("junk"), channelBound(txID{}, true), nil} {
		stranger.WriteToUDPAddrPort(m, s.to.dst)
	}
	huge := transport(65507-channelHeaderSize, 2)
	for _, m := range []struct {
		b      []byte
		client bool
	}{
		{[]byte("junk"), true},
		{nil, false},
		{[]byte{0x40}, true},
		{good[:50], true}, // truncated
		{appendChannelData(nil, standInChannel+1, transport(100, 3)), true}, // of an unknown channel
		{appendChannelData(nil, standInChannel, transport(31, 3)), true},    // too short for WireGuard
		{appendChannelData(nil, standInChannel, nil), true},
		{bindingRequest(t, stun.NewUsername("abcd:efgh")), true},
		{append(bytes.Clone(good), 0, 0, 0), false}, // with padding
		{appendChannelData(nil, standInChannel, huge), false},
	} {
		if _, err := s.server.conn.WriteToUDPAddrPort(m.b, s.to.dst); err != nil {
			t.Fatal(err)
		}
		if m.client {
			select {
			case got := <-seen:
				if !bytes.Equal(got, m.b) {
					t.Errorf("the client got %x, want %x", got, m.b)
				}
			case <-time.After(patience):
				t.Fatalf("the client does not see %x", m.b)
			}
		}
	}
	for _, want := range [][]byte{good[channelHeaderSize:], huge} {
		if got := b.next(t); !bytes.Equal(got.data, want) || got.ep != s.e {
			t.Errorf("got packet %d of %d bytes", number(got.data), len(got.data))
		}
	}
	s.t.Close()
	if err := <-done; err == nil {
		t.Error("no error after Close")
	}
	if err := b.Send([][]byte{transport(100, 1)}, s.e); err != nil { // a path that does not work is ICE's affair
		t.Errorf("send through a closed socket: %v", err)
	}
	select {
	case m := <-seen:
		t.Errorf("the client got %x", m)
	default:
	}
}

// The client may bind its channel to another server: what the old one sends is a stranger's then.
func TestTURNSocketServer(t *testing.T) {
	b := New(Options{})
	defer b.Shutdown()
	s, err := b.ListenTURN("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.WriteTo([]byte("x"), &net.TCPAddr{}); err == nil {
		t.Error("sent to an address of TCP")
	}
	if s.carry([][]byte{transport(64, 1)}, relayRemote) {
		t.Error("carried without a server")
	}
	if _, err := b.ListenTURN("udp4", "192.0.2.1:0"); err == nil {
		t.Error("listens at an address of somebody else")
	}
	s.SetReadDeadline(time.Now())
	if _, _, err := s.ReadFrom(make([]byte, 10)); err == nil || !err.(net.Error).Timeout() {
		t.Errorf("got %v, want a timeout", err)
	}
	s.SetReadDeadline(time.Time{})
	server := udpConn(t, "127.0.0.1:0")
	s.WriteTo([]byte("x"), server.LocalAddr())
	server.WriteTo([]byte("longer than there is room"), s.LocalAddr())
	if n, _, err := s.ReadFrom(make([]byte, 4)); n != 4 || err != io.ErrShortBuffer {
		t.Errorf("got %d, %v; want ErrShortBuffer", n, err)
	}
}

func BenchmarkSendRelay(b *testing.B) {
	for _, f := range benchFamilies {
		for _, batch := range benchBatches {
			b.Run(fmt.Sprintf("%s/size=1452/batch=%d", f.name, batch), func(b *testing.B) {
				bind := New(Options{})
				defer bind.Shutdown()
				s := newStandIn(b, bind, f.addr.String())
				s.server.conn.SetReadBuffer(1 << 12) // nobody reads: what it can't hold the kernel drops
				bufs := make([][]byte, batch)
				for i := range bufs {
					bufs[i] = transport(1452, uint32(i))
				}
				b.SetBytes(1452)
				b.ReportAllocs()
				b.ResetTimer()
				for i := 0; i < b.N; i += batch {
					if err := bind.Send(bufs, s.e); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkReceiveRelay has a clock of its own, as benchReceive has. A message for the client behind each burst makes the client's goroutine
// needless, which would read while the burst is sent. Its address is what is allocated.
func BenchmarkReceiveRelay(b *testing.B) {
	for _, f := range benchFamilies {
		for _, batch := range benchBatches {
			b.Run(fmt.Sprintf("%s/size=1452/batch=%d", f.name, batch), func(b *testing.B) {
				bind := New(Options{})
				fns, _, err := bind.Open(0)
				if err != nil {
					b.Fatal(err)
				}
				defer bind.Shutdown()
				s := newStandIn(b, bind, f.addr.String())
				out := make([][]byte, batch)
				for i := range out {
					out[i] = transport(1452, uint32(i))
				}
				bufs, sizes, eps := newBatch(bind.BatchSize())
				end := make([]byte, 16)
				b.ReportAllocs()
				b.ResetTimer()
				calls, done := 0, 0
				var took time.Duration
				for ; done < b.N; done += batch {
					if _, err := s.server.send(out, s.to, standInChannel); err != nil {
						b.Fatal(err)
					}
					if _, err := s.server.conn.WriteToUDPAddrPort(end, s.to.dst); err != nil {
						b.Fatal(err)
					}
					start := time.Now()
					if _, _, err := s.t.ReadFrom(end); err != nil {
						b.Fatal(err)
					}
					for n := 0; n < batch; calls++ {
						k, err := fns[len(fns)-1](bufs, sizes, eps)
						if err != nil {
							b.Fatal(err)
						}
						n += k
					}
					took += time.Since(start)
				}
				b.ReportMetric(float64(took.Nanoseconds())/float64(done), "ns/op")
				b.ReportMetric(float64(done*1452)/1e6/took.Seconds(), "MB/s")
				b.ReportMetric(float64(calls)/float64(done), "calls/op")
			})
		}
	}
}
