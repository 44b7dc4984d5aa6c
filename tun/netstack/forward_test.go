package netstack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wice-go/wice-go/test/program"
)

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// bound returns the address that a forward listens on.
func (w *Forwarding) bound() string {
	if l, ok := w.open.(net.Listener); ok {
		return l.Addr().String()
	}
	return w.open.(net.PacketConn).LocalAddr().String()
}

func startForward(t *testing.T, s *Stack, f Forward, most int, idle time.Duration) *Forwarding {
	t.Helper()
	w, err := s.startForward(f, nil, most, idle)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// outside listens on loopback, outside the tunnel.
func outside(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// chain carries TCP into a's end of the tunnel and out of b's to target, and returns where it begins.
func chain(t *testing.T, a, b *node, target string) string {
	t.Helper()
	startForward(t, b.Stack, Forward{Network: "tcp", Inbound: true, Listen: netip.MustParseAddrPort("0.0.0.0:80"), Target: target}, maxForwarded, udpIdle)
	w := startForward(t, a.Stack, Forward{Network: "tcp", Listen: loopback, Target: "10.0.0.2:80"}, maxForwarded, udpIdle)
	return w.bound()
}

func dialTCP(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// TestForwardHalfClose has each end say that it has sent everything, and go on receiving.
func TestForwardHalfClose(t *testing.T) {
	a, b := newPair(t)
	l := outside(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer c.Close()
		got, err := io.ReadAll(c) // ends only with the client's half
		if err == nil && !bytes.Equal(got, data) {
			err = errors.New("not what was sent")
		}
		if err == nil {
			_, err = c.Write(append(got, "done"...))
		}
		served <- err
	}()
	c := dialTCP(t, chain(t, a, b, l.Addr().String()))
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, append(data, "done"...)) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestForwardPassesResetOn checks both directions: a connection that failed must not look like one that ended.
func TestForwardPassesResetOn(t *testing.T) {
	a, b := newPair(t)
	l := outside(t)
	address := chain(t, a, b, l.Addr().String())
	for _, fromServer := range []bool{true, false} {
		c := dialTCP(t, address)
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		server.SetDeadline(time.Now().Add(20 * time.Second))
		failing, other := c, server
		if fromServer {
			failing, other = server.(*net.TCPConn), net.Conn(c)
		}
		for _, pair := range [][2]net.Conn{{failing, other}, {other, failing}} { // both ways are at work
			if _, err := pair[0].Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(pair[1], make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		failing.SetLinger(0)
		failing.Close()
		if _, err := other.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("from the server: %v: got %v, want a reset", fromServer, err)
		}
		other.Close()
	}
}

// TestForwardTargetNotReached checks that a client learns of it, and that the forward goes on.
func TestForwardTargetNotReached(t *testing.T) {
	a, b := newPair(t)
	closed := outside(t)
	closed.Close()
	c := dialTCP(t, chain(t, a, b, closed.Addr().String()))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %d, %v, want a reset", n, err)
	}
	// The listener inside survives the reset of a connection that it made.
	for range 3 {
		c, err := a.DialContext(testContext(t), "tcp", "10.0.0.2:80")
		if err != nil {
			t.Fatalf("the forward has ended: %v", err)
		}
		c.Close()
	}
}

// TestForwardBothFamilies has one forward listen in the tunnel on IPv4 and IPv6.
func TestForwardBothFamilies(t *testing.T) {
	a, b := newPair(t)
	l := outside(t)
	startForward(t, b.Stack, Forward{Network: "tcp", Inbound: true, Listen: netip.MustParseAddrPort("0.0.0.0:80"), Target: l.Addr().String()}, maxForwarded, udpIdle)
	for _, ip := range []netip.Addr{b4, b6} {
		c, err := a.DialContext(testContext(t), "tcp", netip.AddrPortFrom(ip, 80).String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		server.Write([]byte(ip.String()))
		server.Close()
		if got, err := io.ReadAll(c); string(got) != ip.String() || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		c.Close()
	}
	if _, err := b.Forward(Forward{Network: "tcp", Inbound: true, Listen: netip.MustParseAddrPort("0.0.0.0:80"), Target: "x:1"}, slog.Default()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("the same port twice: got %v", err)
	}
}

// TestForwardSlots checks that as many connections as there are slots are carried, and that the next one waits for one of them to end.
func TestForwardSlots(t *testing.T) {
	a, b := newPair(t)
	l := outside(t)
	startForward(t, b.Stack, Forward{Network: "tcp", Inbound: true, Listen: netip.MustParseAddrPort("0.0.0.0:80"), Target: l.Addr().String()}, 2, udpIdle)
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	var clients []net.Conn
	for range 3 {
		c, err := a.DialContext(testContext(t), "tcp", "10.0.0.2:80")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients = append(clients, c)
	}
	var servers []net.Conn
	for range 2 { // an acceptor that waits holds no slot
		servers = append(servers, <-accepted)
	}
	select {
	case <-accepted:
		t.Error("got a third connection, want it to wait")
	case <-time.After(50 * time.Millisecond):
	}
	for i, c := range servers { // their slots become free
		clients[i].Close()
		c.Close()
	}
	(<-accepted).Close()
	l.Close()
	for c := range accepted {
		c.Close()
	}
}

// TestForwardCloseIsPrompt closes with connections open in every state: idle, blocked in both directions, and not connected yet.
func TestForwardCloseIsPrompt(t *testing.T) {
	a, b := newPair(t)
	l := outside(t)
	inbound := startForward(t, b.Stack, Forward{Network: "tcp", Inbound: true, Listen: netip.MustParseAddrPort("0.0.0.0:80"), Target: l.Addr().String()}, maxForwarded, udpIdle)
	outbound := startForward(t, a.Stack, Forward{Network: "tcp", Listen: loopback, Target: "10.0.0.2:80"}, maxForwarded, udpIdle)
	nobody := startForward(t, a.Stack, Forward{Network: "tcp", Listen: loopback, Target: "10.0.0.3:80"}, maxForwarded, udpIdle)
	var flood sync.WaitGroup
	var servers []net.Conn
	for i := range 100 {
		c := dialTCP(t, outbound.bound())
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, server)
		if i < 5 { // nobody reads at the other end: every buffer on the way gets full
			flood.Go(func() { io.Copy(c, zeros{}) })
			flood.Go(func() { io.Copy(server, zeros{}) })
		}
	}
	for range 5 {
		dialTCP(t, nobody.bound())
	}
	for _, w := range []*Forwarding{outbound, nobody, inbound} {
		start := time.Now()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("Close took %v", took)
		}
		if err := w.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	}
	flood.Wait() // the writers have met an error
	for _, c := range servers {
		c.Close()
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestForwardUDP carries datagrams of two senders, whose answers must not be mixed up, to a target that sees two.
func TestForwardUDP(t *testing.T) {
	a, b := newPair(t)
	target, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	echoed := make(chan int)
	go func() {
		seen := make(map[string]bool)
		buf := make([]byte, 65535)
		for {
			n, from, err := target.ReadFrom(buf)
			if err != nil {
				echoed <- len(seen)
				return
			}
			seen[from.String()] = true
			target.WriteTo(buf[:n], from)
		}
	}()
	startForward(t, b.Stack, Forward{Network: "udp", Inbound: true, Listen: netip.MustParseAddrPort("0.0.0.0:53"), Target: target.LocalAddr().String()}, maxForwarded, udpIdle)
	w := startForward(t, a.Stack, Forward{Network: "udp", Listen: loopback, Target: "10.0.0.2:53"}, maxForwarded, udpIdle)
	for _, text := range []string{"one", strings.Repeat("two", 1000)} {
		c, err := net.Dial("udp", w.bound())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 3 {
			exchange(t, c, text)
		}
	}
	// And over IPv6 inside the tunnel.
	c, err := a.DialContext(testContext(t), "udp", "[fd00::2]:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	exchange(t, c, "six")
	target.Close()
	if n := <-echoed; n != 3 {
		t.Errorf("the target saw %d senders, want 3", n)
	}
}

// exchange sends a datagram until the same comes back: each is lost at most rarely.
func exchange(t *testing.T, c net.Conn, text string) {
	t.Helper()
	buf := make([]byte, 65535)
	for range 20 {
		if _, err := c.Write([]byte(text)); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		n, err := c.Read(buf)
		if err == nil {
			if string(buf[:n]) != text {
				t.Fatalf("got %.20q, want %.20q", buf[:n], text)
			}
			return
		}
	}
	t.Fatalf("no answer to %.20q", text)
}

// TestForwardUDPSurvivesRefusal sends to a port where nobody is, and then somebody.
func TestForwardUDPSurvivesRefusal(t *testing.T) {
	s, err := New([]netip.Addr{a4}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	port, err := program.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	startForward(t, s, Forward{Network: "udp", Inbound: true, Listen: netip.MustParseAddrPort("0.0.0.0:53"), Target: address}, maxForwarded, udpIdle)
	c, err := s.DialContext(testContext(t), "udp", "10.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 10 {
		c.Write([]byte("refused"))
	}
	target, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 100)
		for {
			n, from, err := target.ReadFrom(buf)
			if err != nil {
				return
			}
			if string(buf[:n]) != "refused" {
				target.WriteTo(buf[:n], from)
			}
		}
	}()
	exchange(t, c, "answered")
	target.Close()
	<-done
}

// packets is a net.PacketConn and a net.Conn made of channels, for tests in a bubble.
type packets struct {
	in, out  chan packet
	fail     error // of every ReadFrom, while in is empty
	reads    int
	mu       sync.Mutex // guards the following
	deadline time.Time
	closed   chan struct{}
	once     sync.Once
}

type packet struct {
	from string
	data string
}

func newPackets() *packets {
	return &packets{in: make(chan packet, 100), out: make(chan packet, 100), closed: make(chan struct{})}
}

type name string

func (name) Network() string  { return "udp" }
func (n name) String() string { return string(n) }

func (p *packets) ReadFrom(b []byte) (int, net.Addr, error) {
	p.reads++
	select {
	case x := <-p.in:
		return copy(b, x.data), name(x.from), nil
	default:
	}
	if p.fail != nil {
		return 0, nil, p.fail
	}
	p.mu.Lock()
	var expired <-chan time.Time
	if !p.deadline.IsZero() {
		expired = time.After(time.Until(p.deadline))
	}
	p.mu.Unlock()
	select {
	case x := <-p.in:
		return copy(b, x.data), name(x.from), nil
	case <-expired:
		return 0, nil, &net.OpError{Op: "read", Err: context.DeadlineExceeded}
	case <-p.closed:
		return 0, nil, net.ErrClosed
	}
}

func (p *packets) WriteTo(b []byte, to net.Addr) (int, error) {
	p.out <- packet{to.String(), string(b)}
	return len(b), nil
}

func (p *packets) Read(b []byte) (int, error) {
	n, _, err := p.ReadFrom(b)
	return n, err
}
func (p *packets) Write(b []byte) (int, error)      { return p.WriteTo(b, name("target")) }
func (p *packets) Close() error                     { p.once.Do(func() { close(p.closed) }); return nil }
func (p *packets) LocalAddr() net.Addr              { return name("local") }
func (p *packets) RemoteAddr() net.Addr             { return name("remote") }
func (p *packets) SetDeadline(time.Time) error      { return nil }
func (p *packets) SetWriteDeadline(time.Time) error { return nil }
func (p *packets) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline = t
	return nil
}

// inBubble runs a UDP forward over fakes. dialed has the sockets towards the target.
func inBubble(t *testing.T, most int, f func(t *testing.T, c *packets, dialed chan *packets)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c, dialed := newPackets(), make(chan *packets, 100)
		w := &Forwarding{forward: Forward{Network: "udp"}, log: slog.New(slog.DiscardHandler), slots: make(chan struct{}, most), udpIdle: udpIdle}
		w.ctx, w.cancel = context.WithCancel(t.Context())
		w.open = c
		w.dial = func(context.Context, string, string) (net.Conn, error) {
			out := newPackets()
			dialed <- out
			return out, nil
		}
		w.tasks.Go(func() { w.receiveUDP(c) })
		f(t, c, dialed)
		w.Close()
		if len(w.slots) != 0 {
			t.Errorf("%d slots are still held", len(w.slots))
		}
	})
}

// TestUDPIdle checks that a datagram either way keeps a sender's socket, and that silence ends it.
func TestUDPIdle(t *testing.T) {
	inBubble(t, 10, func(t *testing.T, c *packets, dialed chan *packets) {
		c.in <- packet{"alice", "1"}
		out := <-dialed
		for range 5 {
			<-time.After(udpIdle - time.Second)
			c.in <- packet{"alice", "2"}
		}
		for range 5 {
			<-time.After(udpIdle - time.Second)
			out.in <- packet{"target", "3"}
		}
		synctest.Wait()
		select {
		case <-out.closed:
			t.Fatal("the socket was closed while datagrams went")
		default:
		}
		if len(out.out) != 6 || len(c.out) != 5 {
			t.Errorf("got %d datagrams there and %d back, want 6 and 5", len(out.out), len(c.out))
		}
		if got := <-c.out; got.from != "alice" {
			t.Errorf("the answer went to %s", got.from)
		}
		<-time.After(udpIdle + time.Second)
		synctest.Wait()
		select {
		case <-out.closed:
		default:
			t.Error("the socket of an idle sender is still open")
		}
		c.in <- packet{"alice", "4"}
		if again := <-dialed; again == out {
			t.Error("got the closed socket")
		}
	})
}

// TestUDPForgets checks that a sender whose datagram came just now, and was served already, is kept, and that one that has ended takes no other of
// its name out of the table.
func TestUDPForgets(t *testing.T) {
	u := &udpForward{Forwarding: &Forwarding{udpIdle: udpIdle}, senders: make(map[string]*udpSender)}
	s, other := &udpSender{key: "alice"}, &udpSender{key: "alice"}
	u.senders["alice"] = s
	s.touch()
	if u.forgetIdle(s) || u.senders["alice"] != s {
		t.Error("a sender is forgotten that was not idle")
	}
	s.last.Store(0)
	if !u.forgetIdle(s) || len(u.senders) != 0 {
		t.Error("an idle sender is kept")
	}
	u.senders["alice"] = other
	u.forget(s)
	if u.senders["alice"] != other {
		t.Error("another sender is gone")
	}
}

// TestUDPTableIsBounded checks that senders beyond the bound are dropped and those within it are served, and that there is room again later.
func TestUDPTableIsBounded(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, c *packets, dialed chan *packets) {
		for _, from := range []string{"a", "b", "c", "d", "a"} {
			c.in <- packet{from, "x"}
		}
		synctest.Wait()
		if len(dialed) != 2 {
			t.Fatalf("got %d sockets, want 2", len(dialed))
		}
		if first, second := <-dialed, <-dialed; len(first.out)+len(second.out) != 3 {
			t.Errorf("got %d and %d datagrams, want 3", len(first.out), len(second.out))
		}
		<-time.After(udpIdle + time.Second)
		c.in <- packet{"c", "x"}
		synctest.Wait()
		if len(dialed) != 1 {
			t.Error("there is no room for a new sender after the old ones")
		}
	})
}

// TestUDPNoBusyLoop lets every ReadFrom fail for a minute.
func TestUDPNoBusyLoop(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, c *packets, dialed chan *packets) {
		synctest.Wait()
		c.fail = errors.New("out of memory")
		c.in <- packet{"a", "x"} // wakes the reader
		<-time.After(time.Minute)
		synctest.Wait()
		if c.reads > 80 {
			t.Errorf("%d reads in a minute", c.reads)
		}
		if len(dialed) != 1 {
			t.Error("the datagram was lost")
		}
	})
}

// TestUDPUnreachable checks that a target that can't be dialled is not tried for each datagram, and gets none of the slots for good.
func TestUDPUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPackets()
		w := &Forwarding{forward: Forward{Network: "udp"}, log: slog.New(slog.DiscardHandler), slots: make(chan struct{}, 2), udpIdle: udpIdle}
		w.ctx, w.cancel = context.WithCancel(t.Context())
		w.open = c
		dials := 0
		w.dial = func(context.Context, string, string) (net.Conn, error) {
			dials++
			return nil, errors.New("no such host")
		}
		w.tasks.Go(func() { w.receiveUDP(c) })
		for range 50 {
			c.in <- packet{"a", "x"}
			<-time.After(10 * time.Millisecond)
		}
		<-time.After(2 * udpRetry)
		synctest.Wait()
		if dials != 1 || len(w.slots) != 0 {
			t.Errorf("got %d dials, %d slots held", dials, len(w.slots))
		}
		w.Close()
	})
}

// flaky fails so many times before it accepts.
type flaky struct {
	net.Listener
	fail  int
	tried int
}

func (f *flaky) Accept() (net.Conn, error) {
	f.tried++
	if f.tried <= f.fail {
		return nil, syscall.EMFILE
	}
	return nil, net.ErrClosed
}

// TestAcceptGoesOn checks that a shortage of file descriptors does not end a forward, nor make it spin.
func TestAcceptGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Forwarding{log: slog.New(slog.DiscardHandler), ctx: t.Context()}
		l, start := &flaky{fail: 20}, time.Now()
		w.acceptTCP(l)
		if took := time.Since(start); l.tried != 21 || took < 10*time.Second {
			t.Errorf("%d attempts in %v", l.tried, took)
		}
	})
}

func TestForwardRefuses(t *testing.T) {
	s, err := New([]netip.Addr{a4}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Forward(Forward{Network: "sctp", Listen: loopback, Target: "10.0.0.2:1"}, nil); err == nil || !strings.Contains(err.Error(), "want tcp or udp") {
		t.Errorf("got %v", err)
	}
	w, err := s.Forward(Forward{Network: "tcp", Listen: loopback, Target: "10.0.0.2:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Close() // ends its forwards too; Close only waits for them
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Forward(Forward{Network: "tcp", Inbound: true, Listen: loopback, Target: "127.0.0.1:1"}, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("on a closed stack: got %v", err)
	}
}
