package bind

import (
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/pion/stun"
	"golang.zx2c4.com/wireguard/conn"
)

// newStream returns a stream of a bind with a peer behind it, and the server's end of its connection.
func newStream(t testing.TB) (b *testBind, s *TURNStream, e *PeerEndpoint, server net.Conn) {
	t.Helper()
	b = openBind(t, Options{})
	near, server := net.Pipe()
	s = b.NewTURNStream(near)
	e = b.Peer(testKey(1))
	s.attach(e)
	t.Cleanup(func() {
		s.Close()
		server.Close()
	})
	return b, s, e, server
}

// bindStream makes the channel to the peer without a server.
func bindStream(s *TURNStream) {
	request := channelBind(testChannel, relayRemote)
	s.channels.sent(request)
	s.channels.received(respond(request, stun.ClassSuccessResponse))
}

// padded is ChannelData as it stands in a stream.
func padded(channel uint16, data []byte) []byte {
	b := appendChannelData(nil, channel, data)
	return append(b, make([]byte, -len(b)&3)...)
}

// Wherever a stream is cut, the client gets its messages whole, and WireGuard its packets.
func TestTURNStreamReads(t *testing.T) {
	message := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername("a:b"), stun.Fingerprint).Raw
	other := padded(testChannel+1, transport(33, 5))
	big := padded(testChannel, bytes.Repeat([]byte{0x16}, 1<<16-1)) // of no use to WireGuard
	packet := transport(35, 7)
	all := bytes.Join([][]byte{message, padded(testChannel, packet), other}, nil)
	for cut := 1; cut < len(all); cut++ {
		b, s, e, server := newStream(t)
		bindStream(s)
		go func() {
			server.Write(all[:cut])
			server.Write(append(bytes.Clone(all[cut:]), big...))
		}()
		for _, want := range [][]byte{message, other, big} {
			got := make([]byte, len(want))
			if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("cut at %d: got %d bytes, %v, want %d", cut, len(got), err, len(want))
			}
		}
		if got := b.next(t); !bytes.Equal(got.data, packet) || got.ep != conn.Endpoint(e) {
			t.Fatalf("cut at %d: WireGuard got %d bytes", cut, len(got.data))
		}
		s.Close()
		server.Close()
	}
}

// What is neither STUN nor ChannelData ends the stream: nobody could find the next message.
func TestTURNStreamOutOfStep(t *testing.T) {
	for _, bad := range []string{"\xff\xff\xff\xff", "\x00\x01\x00\x03", "\x00\x01\x00\x00not a cookie"} {
		_, s, _, server := newStream(t)
		go server.Write([]byte(bad))
		if n, err := s.Read(make([]byte, 100)); n != 0 || err == nil {
			t.Errorf("%q: got %d bytes, %v", bad, n, err)
		}
	}
}

// A server that reads nothing holds up nobody. What there is no room for is dropped whole.
func TestTURNStreamStalled(t *testing.T) {
	b, s, _, server := newStream(t)
	bindStream(s)
	const rounds = 100
	out := make([][]byte, 128)
	for i := range out {
		out[i] = transport(1400+i, uint32(i))
	}
	for range rounds {
		if !s.carry(out, relayRemote) {
			t.Fatal("there is no channel")
		}
		if _, err := s.Write(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	kept := len(s.out)
	s.mu.Unlock()
	if kept > streamQueue {
		t.Errorf("%d bytes are kept, want at most %d", kept, streamQueue)
	}
	dropped := int(b.Stats().RelaySendFull)
	if dropped == 0 {
		t.Error("nothing was dropped")
	}
	received := make(chan int)
	go func() {
		got, r := 0, &TURNStream{Conn: server} // reads a stream as the client does
		r.relay = newRelay(new(counters))
		defer func() { received <- got }()
		buf := make([]byte, 1<<16)
		for want := rounds*(len(out)+1) - dropped; got < want; got++ {
			n, err := r.Read(buf)
			if err != nil {
				return
			}
			if number, data := parseChannelData(buf[:n]); data != nil && (number != testChannel || !isWireGuard(data)) {
				t.Errorf("channel %#x, %d bytes", number, len(data))
			}
		}
	}()
	if got, want := <-received, rounds*(len(out)+1)-dropped; got != want {
		t.Errorf("%d messages arrived, want the %d that were not dropped", got, want)
	}
	s.Close()
	if _, err := s.Write([]byte{0, 1, 0, 0}); err == nil {
		t.Error("writing to a closed stream is no error")
	}
	s.Close() // again
}

// FuzzTURNStream: however a stream is cut into reads, its messages are the same; and garbage does no harm.
func FuzzTURNStream(f *testing.F) {
	message := stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw
	f.Add(append(padded(testChannel, []byte("hello")), message...), 3)
	f.Add([]byte("\x40\x01\x00\x05hello\x00\x00\x00\x00\x01\x00\x03"), 1)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		read := func(size int) ([]byte, error) {
			s := &TURNStream{Conn: &chunks{rest: in, size: size}}
			s.relay = newRelay(new(counters))
			return io.ReadAll(s)
		}
		whole, werr := read(len(in) + 1)
		cut, cerr := read(max(size, 1))
		if !bytes.Equal(whole, cut) || (werr == nil) != (cerr == nil) {
			t.Errorf("%d bytes, %v; cut: %d bytes, %v", len(whole), werr, len(cut), cerr)
		}
	})
}

// chunks is a connection that brings some bytes at a time.
type chunks struct {
	net.Conn
	rest []byte
	size int
}

func (c *chunks) Read(b []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, c.rest[:min(c.size, len(c.rest))])
	c.rest = c.rest[n:]
	return n, nil
}

func (c *chunks) RemoteAddr() net.Addr { return &net.TCPAddr{} }

func (c *chunks) Close() error { return nil }
