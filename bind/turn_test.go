package bind

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun"
	"golang.zx2c4.com/wireguard/conn"
)

const testChannel = 0x4001

// channelBind returns a ChannelBind request.
func channelBind(number uint16, peer netip.AddrPort) []byte {
	n := binary.BigEndian.AppendUint16(nil, number)
	m := stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodChannelBind, stun.ClassRequest),
		stun.RawAttribute{Type: stun.AttrChannelNumber, Value: append(n, 0, 0)}, stun.Fingerprint)
	a := stun.XORMappedAddress{IP: peer.Addr().AsSlice(), Port: int(peer.Port())}
	if err := a.AddToAs(m, stun.AttrXORPeerAddress); err != nil {
		panic(err)
	}
	return m.Raw
}

// respond returns a response to a request.
func respond(request []byte, class stun.MessageClass) []byte {
	m := stun.Message{Raw: request}
	if err := m.Decode(); err != nil {
		panic(err)
	}
	return stun.MustBuild(stun.NewTransactionIDSetter(m.TransactionID), stun.NewType(m.Type.Method, class), stun.Fingerprint).Raw
}

// turnEnd is a peer whose path leads through a TURN client's socket, the client, and a server played by the test.
type turnEnd struct {
	*testBind
	peer   *PeerEndpoint
	socket *TURNSocket
	server *net.UDPConn
	addr   netip.AddrPort // of the socket, as the server sees it
	far    net.Conn       // the other end of the connection that the path has too
	client chan []byte    // what the client is given
}

func newTURNEnd(t *testing.T, network, listen, server string) *turnEnd {
	t.Helper()
	b := openBind(t, Options{})
	e := &turnEnd{testBind: b, peer: b.Peer(testKey(1)), server: udpConn(t, server), client: make(chan []byte, 100)}
	e.server.SetReadBuffer(4 << 20)
	var err error
	if e.socket, err = b.ListenTURN(network, listen); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		e.socket.Close()
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			n, from, err := e.socket.ReadFrom(buf)
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("ReadFrom: %v", err)
				}
				return
			}
			if from.String() != e.server.LocalAddr().String() {
				t.Errorf("got a message from %s, want %s", from, e.server.LocalAddr())
			}
			e.client <- bytes.Clone(buf[:n])
		}
	}()
	near, far := net.Pipe()
	e.far = far
	t.Cleanup(func() {
		near.Close()
		far.Close()
	})
	e.peer.SetPath(NewRelayPath(e.socket, near, relayLocal, relayRemote))
	return e
}

// bind makes the channel to the peer.
func (e *turnEnd) bind(t *testing.T) {
	t.Helper()
	if _, err := e.socket.WriteTo(channelBind(testChannel, relayRemote), e.server.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	request := e.atServer(t)
	e.fromServer(t, respond(request, stun.ClassSuccessResponse))
	e.atClient(t)
}

func (e *turnEnd) atServer(t *testing.T) []byte {
	t.Helper()
	buf := make([]byte, 1<<16)
	e.server.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, from, err := e.server.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	e.addr = from
	return buf[:n]
}

func (e *turnEnd) fromServer(t *testing.T, b []byte) {
	t.Helper()
	if _, err := e.server.WriteToUDPAddrPort(b, e.addr); err != nil {
		t.Fatal(err)
	}
}

func (e *turnEnd) atClient(t *testing.T) []byte {
	t.Helper()
	select {
	case b := <-e.client:
		return b
	case <-time.After(5 * time.Second):
		t.Fatal("the client is given nothing")
		panic("unreachable")
	}
}

// Once the channel is bound packets go as ChannelData both ways, past the client and the connection; and nothing else does.
func TestTURNSocket(t *testing.T) {
	for _, c := range []struct{ network, listen, server string }{
		{"udp4", "127.0.0.1:0", "127.0.0.1:0"}, {"udp6", "[::1]:0", "[::1]:0"}, {"udp", ":0", "127.0.0.1:0"}, {"udp", ":0", "[::1]:0"},
	} {
		t.Run(c.network+" to "+c.server, func(t *testing.T) {
			e := newTURNEnd(t, c.network, c.listen, c.server)
			if err := e.Send([][]byte{transport(100, 0)}, e.peer); err != nil {
				t.Fatal(err)
			}
			if got := readPacket(t, e.far); number(got) != 0 || len(got) != 100 {
				t.Errorf("before there is a channel: got packet %d of %d bytes by the connection", number(got), len(got))
			}
			e.bind(t)
			var out [][]byte
			for i := range 128 {
				size := 1452
				if i%5 == 0 {
					size = 32 + 11*i
				}
				out = append(out, transport(size, uint32(i)))
			}
			if err := e.Send(out, e.peer); err != nil {
				t.Fatal(err)
			}
			for i, want := range out {
				if got := e.atServer(t); !bytes.Equal(got, appendChannelData(nil, testChannel, want)) {
					t.Fatalf("packet %d of %d bytes: the server got %d bytes, % x ...", i, len(want), len(got), got[:20])
				}
			}
			cookie := transport(32, 9)
			binary.BigEndian.PutUint32(cookie[4:], stunCookie) // as a receiver index may look
			for _, p := range [][]byte{transport(1452, 7), cookie} {
				e.fromServer(t, appendChannelData(nil, testChannel, p))
				if got := e.next(t); !bytes.Equal(got.data, p) || got.ep != conn.Endpoint(e.peer) {
					t.Errorf("got %d bytes from %v, want %d from the peer", len(got.data), got.ep, len(p))
				}
			}
			stranger := udpConn(t, c.server)
			if _, err := stranger.WriteToUDPAddrPort(appendChannelData(nil, testChannel, transport(64, 1)), e.addr); err != nil {
				t.Fatal(err)
			}
			check := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.Fingerprint).Raw
			for name, m := range map[string][]byte{
				"a check":            appendChannelData(nil, testChannel, check),
				"an answer":          appendChannelData(nil, testChannel, respond(check, stun.ClassSuccessResponse)),
				"of another channel": appendChannelData(nil, testChannel+1, transport(64, 1)),
				"cut off":            appendChannelData(nil, testChannel, transport(64, 1))[:40],
				"a message":          check,
				"noise":              []byte("noise"),
			} {
				e.fromServer(t, m)
				if got := e.atClient(t); !bytes.Equal(got, m) {
					t.Errorf("%s: the client got %d bytes, want %d", name, len(got), len(m))
				}
			}
			select {
			case a := <-e.got:
				t.Errorf("WireGuard got packet %d", number(a.data))
			default:
			}
		})
	}
}

// An error of the server takes the channel back, and the connection carries the packets again.
func TestChannelLost(t *testing.T) {
	e := newTURNEnd(t, "udp4", "127.0.0.1:0", "127.0.0.1:0")
	e.bind(t)
	if _, err := e.socket.WriteTo(channelBind(testChannel, relayRemote), e.server.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	e.fromServer(t, respond(e.atServer(t), stun.ClassErrorResponse))
	e.atClient(t)
	if err := e.Send([][]byte{transport(100, 3)}, e.peer); err != nil {
		t.Fatal(err)
	}
	if got := readPacket(t, e.far); number(got) != 3 {
		t.Errorf("got packet %d, want 3", number(got))
	}
}

func TestChannels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c channels
		peer := func(n int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 1000)
		}
		bound := func(number uint16, peer netip.AddrPort) {
			request := channelBind(number, peer)
			c.sent(request)
			c.received(respond(request, stun.ClassSuccessResponse))
		}
		if c.number(peer(1)) != 0 || c.has(testChannel) {
			t.Error("there are channels at first")
		}
		bound(testChannel, peer(1))
		if c.number(peer(1)) != testChannel || c.number(peer(2)) != 0 || !c.has(testChannel) || c.has(testChannel+1) {
			t.Error("the channel is not what was bound")
		}
		<-time.After(channelLifetime - time.Second)
		bound(testChannel, peer(1))
		<-time.After(channelLifetime - time.Second)
		if c.number(peer(1)) != testChannel {
			t.Error("binding again prolongs nothing")
		}
		<-time.After(2 * time.Second)
		if c.number(peer(1)) != 0 {
			t.Error("a channel that was not bound again does not end")
		}
		c.received(respond(channelBind(testChannel+2, peer(3)), stun.ClassSuccessResponse))
		if c.number(peer(3)) != 0 {
			t.Error("an answer to nothing binds a channel")
		}
		bound(0x3fff, peer(4))
		if c.number(peer(4)) != 0 {
			t.Error("what is no channel number is bound")
		}
		for i := range 3 * maxChannels {
			c.sent(channelBind(testChannel+uint16(i), peer(i)))
			bound(testChannel+uint16(i), netip.AddrPortFrom(peer(1).Addr(), uint16(i+1)))
		}
		if n, m := len(c.pending), len(c.bound.Load().byPeer); n > maxChannels || m > maxChannels {
			t.Errorf("%d requests and %d channels are remembered, want at most %d", n, m, maxChannels)
		}
	})
}

// Packets through a relay over UDP cost no allocation, on the way out and on the way in.
func TestRelayNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	b := New(Options{})
	defer b.Shutdown()
	fns, _, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	receive := fns[len(fns)-1] // of all relays
	server := udpConn(t, "127.0.0.1:0")
	server.SetReadBuffer(4 << 20)
	socket, err := b.ListenTURN("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	request := channelBind(testChannel, relayRemote)
	if _, err := socket.WriteTo(request, server.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	peer := b.Peer(testKey(1))
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	peer.SetPath(NewRelayPath(socket, near, relayLocal, relayRemote))
	client, done := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			if _, _, err := socket.ReadFrom(buf); err != nil {
				return
			}
			client <- struct{}{}
		}
	}()
	defer func() {
		socket.Close()
		<-done
	}()
	to := socket.LocalAddr().(*net.UDPAddr).AddrPort()
	server.WriteToUDPAddrPort(respond(request, stun.ClassSuccessResponse), to)
	<-client

	out, bufs := make([][]byte, batchSize), make([]byte, 1<<16)
	for i := range out {
		out[i] = transport(1452, uint32(i))
	}
	if _, _, err := server.ReadFromUDPAddrPort(bufs); err != nil { // the request
		t.Fatal(err)
	}
	send := func() {
		if err := b.Send(out, peer); err != nil {
			t.Fatal(err)
		}
		for range out {
			if _, _, err := server.ReadFromUDPAddrPort(bufs); err != nil {
				t.Fatal(err)
			}
		}
	}
	message := appendChannelData(nil, testChannel, transport(1452, 1))
	packets, sizes, eps := newBatch(b.BatchSize())
	get := func() {
		const count = 64
		for range count {
			if _, err := server.WriteToUDPAddrPort(message, to); err != nil {
				t.Fatal(err)
			}
		}
		for got := 0; got < count; {
			n, err := receive(packets, sizes, eps)
			if err != nil || eps[0] != conn.Endpoint(peer) {
				t.Fatalf("got %v from %v", err, eps[0])
			}
			got += n
		}
	}
	for name, f := range map[string]func(){"send": send, "receive": get} {
		f() // fills pools
		if n := testing.AllocsPerRun(50, f); n > 0 {
			t.Errorf("%s: %v allocations per round, want 0", name, n)
		}
	}
}

func FuzzChannels(f *testing.F) {
	request := channelBind(testChannel, relayRemote)
	f.Add(request, respond(request, stun.ClassSuccessResponse))
	f.Add(request, respond(request, stun.ClassErrorResponse))
	f.Add(request[:30], []byte{1, 9})
	f.Fuzz(func(t *testing.T, sent, received []byte) {
		var c channels
		c.sent(sent)
		c.received(received)
		if number, data := parseChannelData(sent); data != nil && (number&0xc000 != 0x4000 || len(data) > len(sent)-channelHeaderSize) {
			t.Errorf("channel %#x, %d of %d bytes", number, len(data), len(sent))
		}
	})
}
