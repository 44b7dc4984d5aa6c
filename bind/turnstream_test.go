package bind

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun"
)

const streamChannel = 0x4000

// newStream returns a stream with a channel, the peer behind it, and the server's end.
func newStream(t testing.TB, b *Bind) (*TURNStream, *PeerEndpoint, net.Conn) {
	t.Helper()
	near, far := net.Pipe()
	s := b.NewTURNStream(near)
	t.Cleanup(func() {
		s.Close()
		far.Close()
	})
	bindChannel(t, &s.channels, relayRemote, streamChannel)
	e := b.Peer(testKey(1))
	s.attach(e)
	return s, e, far
}

// padded is ChannelData as it is in a stream.
func padded(number uint16, data []byte) []byte {
	b := appendChannelData(nil, number, data)
	return append(b, make([]byte, -len(b)&3)...)
}

// streamMessages are those that a server may send, and which of them are the client's.
func streamMessages(t testing.TB) (ms [][]byte, client []bool) {
	for _, m := range []struct {
		b      []byte
		client bool
	}{
		{padded(streamChannel, transport(33, 1)), false},
		{stun.MustBuild(stun.TransactionID, stun.BindingSuccess, stun.NewSoftware("x")).Raw, true},
		{padded(streamChannel, bindingRequest(t, stun.NewUsername("abcd:efgh"))), true},
		{padded(streamChannel, transport(32, 2)), false},
		{padded(streamChannel, nil), true},
		{padded(streamChannel, []byte("!\x12\xa4Bx")), true}, // the cookie where STUN has it
		{padded(streamChannel+1, transport(34, 9)), true},
		{padded(streamChannel, transport(35, 3)), false},
		{stun.MustBuild(stun.TransactionID, stun.BindingSuccess).Raw, true},
	} {
		ms, client = append(ms, m.b), append(client, m.client)
	}
	return ms, client
}

// A message arrives whole wherever the network cuts it.
func TestTURNStreamCuts(t *testing.T) {
	ms, client := streamMessages(t)
	all := bytes.Join(ms, nil)
	b := openBind(t, Options{})
	for cut := range len(all) + 1 {
		s, e, far := newStream(t, b.Bind)
		go func() {
			if cut == len(all) { // at every byte
				for i := range all {
					far.Write(all[i : i+1])
				}
				return
			}
			for _, b := range [][]byte{all[:cut], all[cut:]} {
				if len(b) > 0 {
					far.Write(b)
				}
			}
		}()
		readAll(t, b, s, e, ms, client)
		s.Close()
		far.Close()
	}
}

func readAll(t *testing.T, b *testBind, s *TURNStream, e *PeerEndpoint, ms [][]byte, client []bool) {
	t.Helper()
	s.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 1<<17)
	for i, m := range ms {
		if !client[i] {
			continue
		}
		n, err := s.Read(buf)
		if err != nil || !bytes.Equal(buf[:n], m) {
			t.Fatalf("message %d: got %x, %v; want %x", i, buf[:n], err, m)
		}
	}
	for i, m := range ms {
		if client[i] {
			continue
		}
		_, want := parseChannelData(m)
		if got := b.next(t); !bytes.Equal(got.data, want) || got.ep != e {
			t.Fatalf("message %d: got packet %d of %d bytes", i, number(got.data), len(got.data))
		}
	}
}

// The longest messages that there are, several of them, and a client with little room.
func TestTURNStreamLongMessages(t *testing.T) {
	b := openBind(t, Options{})
	s, e, far := newStream(t, b.Bind)
	last := make([]byte, 4+1<<16) // as STUN it would have 65532 bytes of attributes
	long := stun.New()
	long.Type = stun.BindingSuccess
	long.WriteHeader()
	long.Add(stun.AttrData, make([]byte, 1<<16-8))
	ms := [][]byte{
		padded(streamChannel, transport(1<<16-1, 1)), long.Raw, padded(streamChannel, last[:1<<16-1]),
		padded(streamChannel, transport(1<<16-1, 2)), padded(streamChannel, transport(1452, 3)), long.Raw,
	}
	go func() {
		for _, m := range ms {
			far.Write(m)
		}
	}()
	readAll(t, b, s, e, ms, []bool{false, true, true, false, false, true})

	go far.Write(ms[1])
	var got []byte
	for len(got) < len(ms[1]) {
		buf := make([]byte, 1000)
		n, err := s.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
	}
	if !bytes.Equal(got, ms[1]) {
		t.Error("a message that was read in pieces is another one")
	}
}

// Out of step is an error, and after it nobody writes into the void.
func TestTURNStreamOutOfStep(t *testing.T) {
	b := openBind(t, Options{})
	for _, m := range [][]byte{
		{0x80, 0, 0, 0},
		{0xff, 0xff, 0xff, 0xff},
		{1, 1, 0, 3}, // STUN has multiples of 4
		{1, 1, 0, 4, 0, 0, 0, 0},
		[]byte("220 mail.example ESMTP"), // "HTTP" looks like a channel
	} {
		s, _, far := newStream(t, b.Bind)
		go far.Write(append(padded(streamChannel, transport(64, 1)), m...))
		s.SetReadDeadline(time.Now().Add(patience))
		if n, err := s.Read(make([]byte, 1<<16)); err == nil || errors.Is(err, io.EOF) || n > 0 {
			t.Errorf("% x: got %d bytes, %v", m, n, err)
		}
		if got := b.next(t); number(got.data) != 1 {
			t.Errorf("what came before is lost: got packet %d", number(got.data))
		}
		if _, err := s.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: got %v, want net.ErrClosed", err)
		}
		if !s.carry([][]byte{transport(64, 1)}, relayRemote) {
			t.Error("a closed stream gives its packets to the client")
		}
		s.Close()
		far.Close()
	}
	// A server that hangs up.
	s, _, far := newStream(t, b.Bind)
	far.Close()
	if _, err := s.Read(make([]byte, 10)); err != io.EOF {
		t.Errorf("got %v, want EOF", err)
	}
	if _, err := s.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: got %v, want net.ErrClosed", err)
	}
	// A deadline ends nothing.
	s, _, far = newStream(t, b.Bind)
	s.SetReadDeadline(time.Unix(1, 0))
	if _, err := s.Read(make([]byte, 10)); err == nil || !err.(net.Error).Timeout() {
		t.Errorf("got %v, want a timeout", err)
	}
	s.SetReadDeadline(time.Time{})
	go far.Write(padded(streamChannel, []byte("x")))
	if n, err := s.Read(make([]byte, 10)); err != nil || n != 8 {
		t.Errorf("after a timeout: got %d, %v", n, err)
	}
}

// TestTURNStreamSlowServer: nobody waits for a server that reads nothing. What it has no room for is dropped whole.
func TestTURNStreamSlowServer(t *testing.T) {
	b := openBind(t, Options{})
	s, _, far := newStream(t, b.Bind)
	const rounds = 100
	var bufs [][]byte
	for i := range batchSize {
		bufs = append(bufs, transport(1300+i%200, uint32(i)))
	}
	for range rounds {
		if !s.carry(bufs, relayRemote) {
			t.Fatal("no channel")
		}
	}
	check := appendChannelData(nil, streamChannel, []byte("check")) // pion pads, others may not
	for range 10 {
		if n, err := s.Write(check); n != len(check) || err != nil {
			t.Fatalf("got %d, %v", n, err)
		}
	}
	s.mu.Lock()
	waiting := len(s.out)
	s.mu.Unlock()
	if waiting > streamQueue+clientRoom {
		t.Errorf("%d bytes wait", waiting)
	}
	want := rounds*batchSize - int(b.Stats().RelaySendFull)
	for range 1000 { // too much for the client's room too
		if n, err := s.Write(make([]byte, 1000)); n != 1000 || err != nil {
			t.Fatalf("got %d, %v", n, err)
		}
	}
	s.mu.Lock()
	if len(s.out) > streamQueue+clientRoom {
		t.Errorf("%d bytes wait", len(s.out))
	}
	s.mu.Unlock()

	far.SetReadDeadline(time.Now().Add(patience))
	packets, checks := 0, 0
	var got []byte
	for buf := make([]byte, 1<<16); packets < want || checks < 10; {
		n, err := far.Read(buf)
		if err != nil {
			t.Fatalf("%v after %d packets of %d and %d checks of 10", err, packets, want, checks)
		}
		got = append(got, buf[:n]...)
		for packets < want || checks < 10 {
			size, err := streamMessage(got)
			if err != nil {
				t.Fatal(err)
			}
			if size == 0 || size > len(got) {
				break
			}
			switch _, data := parseChannelData(got[:size]); {
			case isWireGuard(data):
				packets++
			case string(data) == "check":
				checks++
			default:
				t.Fatalf("got %x", got[:size])
			}
			got = got[size:]
		}
	}
}

// TestTURNStreamClose closes while everybody is at work.
func TestTURNStreamClose(t *testing.T) {
	b := openBind(t, Options{})
	for range 50 {
		s, _, far := newStream(t, b.Bind)
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				if _, err := s.Write([]byte("message!")); err != nil {
					return
				}
			}
		})
		wg.Go(func() {
			for range 1000 {
				s.carry([][]byte{transport(100, 1)}, relayRemote)
			}
		})
		wg.Go(func() {
			if _, err := s.Read(make([]byte, 100)); err == nil {
				t.Error("read something")
			}
		})
		wg.Go(func() { io.CopyN(io.Discard, far, 1000) })
		runtime.Gosched()
		for range 2 {
			wg.Go(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	s, _, _ := newStream(t, b.Bind)
	if _, err := s.Write(nil); err != nil {
		t.Errorf("write nothing: %v", err)
	}
}

// piecesConn brings bytes in pieces of one size.
type piecesConn struct {
	net.Conn
	b    []byte
	size int
}

func (c *piecesConn) Read(b []byte) (int, error) {
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), c.size)], c.b)
	c.b = c.b[n:]
	return n, nil
}

func (*piecesConn) Write(b []byte) (int, error) { return len(b), nil }
func (*piecesConn) Close() error                { return nil }
func (*piecesConn) RemoteAddr() net.Addr        { return &net.TCPAddr{} }

// FuzzTURNStreamRead: the messages do not depend on how the network cuts them, and together they are what was sent.
func FuzzTURNStreamRead(f *testing.F) {
	ms, _ := streamMessages(f)
	f.Add(bytes.Join(ms, nil), 7)
	f.Add([]byte{0x7f, 0xff, 0xff, 0xff, 0}, 1)
	f.Add([]byte("HTTP/1.1 400 Bad Request"), 3)
	b := New(Options{})
	f.Cleanup(func() { b.Shutdown() })
	e := b.Peer(testKey(1))
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		var first [][]byte
		for _, size := range []int{len(in) + 1, max(size, 1)} {
			s := b.NewTURNStream(&piecesConn{b: in, size: size})
			bindChannel(t, &s.channels, relayRemote, streamChannel)
			s.attach(e)
			var got [][]byte
			buf := make([]byte, maxStreamMessage)
			for {
				n, err := s.Read(buf)
				if err != nil {
					break
				}
				got = append(got, bytes.Clone(buf[:n]))
				if whole, err := streamMessage(buf[:n]); whole != n || err != nil {
					t.Fatalf("%x: not a message: %d, %v", buf[:n], whole, err)
				}
			}
			s.Close()
			for _, m := range got {
				if !bytes.Contains(in, m) {
					t.Fatalf("%x was never sent", m)
				}
			}
			if first == nil {
				first = got
			}
			if !bytes.Equal(bytes.Join(first, nil), bytes.Join(got, nil)) {
				t.Fatalf("got %x whole and %x in pieces", first, got)
			}
		}
		var ps [batchSize]*packet
		for n := b.relay.queue.pop(ps[:]); n > 0; n = b.relay.queue.pop(ps[:]) {
			for _, p := range ps[:n] {
				if !isWireGuard(p.data) || !bytes.Contains(in, p.data) || p.peer != e {
					t.Fatalf("got %x of %v", p.data, p.peer)
				}
				p.free()
			}
		}
	})
}
