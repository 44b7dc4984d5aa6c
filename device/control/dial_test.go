package control

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// fakeTunnel dials what a test says.
type fakeTunnel struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

func (f *fakeTunnel) DialPromptly(ctx context.Context, network, address string) (net.Conn, error) {
	return f.dial(ctx, network, address)
}

func (f *fakeTunnel) Carry(ctx context.Context, client, out net.Conn) {
	defer client.Close()
	defer out.Close()
	fail := func(err error) {
		client.(interface{ CloseWithError(error) error }).CloseWithError(err)
		out.Close()
	}
	defer context.AfterFunc(ctx, func() { fail(errors.New("the tunnel went down")) })()
	half := func(to, from net.Conn) {
		if _, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 1<<16)); err != nil {
			fail(err)
			return
		}
		if c, ok := to.(interface{ CloseWrite() error }); ok {
			c.CloseWrite()
		}
	}
	var back sync.WaitGroup
	back.Go(func() { half(client, out) })
	half(out, client)
	back.Wait()
}

// serveTunnel starts a server of which connections through the tunnel are dialed so.
func serveTunnel(t *testing.T, dial func(ctx context.Context, network, address string) (net.Conn, error)) (*Server, *Client) {
	t.Helper()
	path := testSocket(t)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(&fakeDaemon{status: testStatus()}, Options{Tunnel: func() Tunnel { return &fakeTunnel{dial} }})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-done); err != nil {
			t.Error(err)
		}
	})
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if _, err := c.Status(t.Context()); err != nil { // which uses the first connection
		t.Fatal(err)
	}
	return s, c
}

// farEnds gives each dialed connection's other end to the test.
func farEnds() (dial func(context.Context, string, string) (net.Conn, error), far chan net.Conn) {
	far = make(chan net.Conn, 2*maxStreams)
	return func(context.Context, string, string) (net.Conn, error) {
		near, end := net.Pipe()
		far <- end
		return near, nil
	}, far
}

func TestDialTunnelTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, c := serveTunnel(t, func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != "bob:22" {
			return nil, fmt.Errorf("%s: %w", address, syscall.ECONNREFUSED)
		}
		return (&net.Dialer{}).DialContext(ctx, network, l.Addr().String())
	})
	conn, err := c.DialTunnel(t.Context(), DialRequest{Network: "tcp", Address: "bob:22"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	// More than a frame, then the end of one direction and of the other.
	data := bytes.Repeat([]byte("0123456789"), 30_000)
	go func() {
		conn.Write(data)
		conn.CloseWrite()
	}()
	if got, err := io.ReadAll(far); err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d of %d bytes, %v", len(got), len(data), err)
	}
	far.Write([]byte("answer"))
	far.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "answer" {
		t.Errorf("got %q, %v", got, err)
	}
	for request, want := range map[DialRequest]string{
		{Network: "tcp", Address: "eve:22"}: "eve:22: connection refused", {Network: "sctp", Address: "bob:22"}: `network "sctp": want tcp or udp`,
	} {
		if _, err := c.DialTunnel(t.Context(), request); err == nil || err.Error() != want {
			t.Errorf("%v: got %v, want %q", request, err, want)
		}
	}
}

func TestDialTunnelUDP(t *testing.T) {
	dial, far := farEnds()
	_, c := serveTunnel(t, dial)
	conn, err := c.DialTunnel(t.Context(), DialRequest{Network: "udp", Address: "bob:53"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	end := <-far
	buf := make([]byte, 1<<16)
	for _, size := range []int{1, 1200, 65507} {
		datagram := bytes.Repeat([]byte{byte(size)}, size)
		go conn.Write(datagram)
		if n, err := end.Read(buf); err != nil || !bytes.Equal(buf[:n], datagram) {
			t.Errorf("got %d bytes, want %d, %v", n, size, err)
		}
		go end.Write(datagram)
		if n, err := conn.Read(buf); err != nil || !bytes.Equal(buf[:n], datagram) {
			t.Errorf("got %d bytes, want %d, %v", n, size, err)
		}
	}
	// What doesn't fit is lost, but not the next one.
	go func() {
		end.Write([]byte("a long one"))
		end.Write([]byte("next"))
	}()
	for _, want := range []string{"a lo", "next"} {
		if n, err := conn.Read(buf[:4]); err != nil || string(buf[:n]) != want {
			t.Errorf("got %q, %v, want %q", buf[:n], err, want)
		}
	}
	if _, err := conn.Write(make([]byte, 1<<16)); err == nil {
		t.Error("sent a datagram that is too long")
	}
	conn.Close()
	if _, err := end.Read(buf); err == nil {
		t.Error("the other end is still open")
	}
}

// TestStreamsEnd checks what each side is told when the other ends otherwise than in peace.
func TestStreamsEnd(t *testing.T) {
	dial, far := farEnds()
	s, c := serveTunnel(t, dial)
	open := func() (Conn, net.Conn) {
		conn, err := c.DialTunnel(t.Context(), DialRequest{Network: "tcp", Address: "bob:22"})
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		end := <-far
		end.SetDeadline(time.Now().Add(20 * time.Second))
		return conn, end
	}
	// A client that goes away, before and after the end of its direction.
	for _, half := range []bool{false, true} {
		conn, end := open()
		if half {
			conn.CloseWrite()
		}
		conn.Close()
		if _, err := end.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want the end", err)
		}
	}
	// The daemon, with a client that listens and one that doesn't.
	conn, _ := open()
	_, busy := open()
	stuck := make(chan struct{})
	go func() {
		defer close(stuck)
		io.Copy(busy, bytes.NewReader(make([]byte, 16<<20)))
	}()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || err.Error() != "the tunnel went down" {
		t.Errorf("got %v, want the daemon's words", err)
	}
	<-stuck
	if n := len(s.streams); n != maxStreams {
		t.Errorf("got %d slots in use after Close, want all %d", n, maxStreams)
	}
}

// TestStreamLimit checks that connections through the daemon leave those of commands alone, whether they are under way or open.
func TestStreamLimit(t *testing.T) {
	dial, far := farEnds()
	slow, arrived := make(chan struct{}), make(chan struct{}, maxStreams)
	_, c := serveTunnel(t, func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == "slow:1" {
			arrived <- struct{}{}
			<-slow
		}
		return dial(ctx, network, address)
	})
	var under sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	request := func(address string) {
		conn, err := c.DialTunnel(t.Context(), DialRequest{Network: "tcp", Address: address})
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		open = append(open, conn)
	}
	for range maxStreams - maxConns - 1 {
		request("bob:22")
	}
	for range maxConns + 1 {
		under.Go(func() { request("slow:1") })
	}
	for range maxConns + 1 {
		<-arrived
	}
	full := fmt.Sprintf("there are %d connections through the daemon already", maxStreams)
	if _, err := c.DialTunnel(t.Context(), DialRequest{Network: "tcp", Address: "bob:22"}); err == nil || err.Error() != full {
		t.Errorf("one too many: got %v, want %q", err, full)
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("a command among %d connections: %v", maxStreams, err)
	}
	close(slow)
	under.Wait()
	for _, conn := range open {
		conn.Close()
	}
	for range len(far) {
		(<-far).Close()
	}
}

func TestDialTunnelKernel(t *testing.T) {
	path := testSocket(t)
	serve(t, &fakeDaemon{status: testStatus()}, path)
	if _, err := dial(t, path).DialTunnel(t.Context(), DialRequest{Network: "tcp", Address: "bob:22"}); err == nil || !strings.Contains(err.Error(), "kernel") {
		t.Errorf("got %v", err)
	}
}

func TestDialTunnelCancelled(t *testing.T) {
	gone := make(chan struct{})
	_, c := serveTunnel(t, func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		close(gone)
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.DialTunnel(ctx, DialRequest{Network: "tcp", Address: "bob:22"}); err == nil {
		t.Error("want an error")
	}
	<-gone
}

// sink is a connection that says one thing and keeps what it is told.
type sink struct {
	net.Conn
	bytes.Buffer
}

func (s *sink) Write(b []byte) (int, error)      { return s.Buffer.Write(b) }
func (s *sink) Read(b []byte) (int, error)       { return s.Buffer.Read(b) }
func (s *sink) Close() error                     { return nil }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }

// FuzzStream checks that a stream makes nothing up from what is no stream, and reads back what it has written.
func FuzzStream(f *testing.F) {
	f.Add([]byte("\x00\x00\x02hi\x01\x00\x00"), false)
	f.Add([]byte("\x00\x00\x00\x00\x00\x02hi\x02\x00\x03why"), true)
	f.Add([]byte{0, 255, 255}, true)
	f.Add([]byte{2, 255, 255}, false)
	f.Fuzz(func(t *testing.T, b []byte, datagrams bool) {
		got, err := io.ReadAll(struct{ io.Reader }{newStream(&sink{}, bufio.NewReader(bytes.NewReader(b)), datagrams)})
		if len(got) > len(b) || err == nil && !bytes.Contains(b, []byte{frameEnd, 0, 0}) {
			t.Errorf("got %d bytes of %d, %v", len(got), len(b), err)
		}
		if len(b) > maxFrame {
			return
		}
		wire := &sink{}
		w := newStream(wire, nil, datagrams)
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		w.CloseWithError(errors.New("why"))
		back := newStream(wire, bufio.NewReader(wire), datagrams)
		buf := make([]byte, len(b)+1)
		n, err := io.ReadFull(back, buf)
		if !bytes.Equal(buf[:n], b) || err == nil || err.Error() != "why" {
			t.Errorf("got %d of %d bytes back, %v", n, len(b), err)
		}
	})
}
