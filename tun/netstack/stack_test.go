package netstack

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/wice-go/wice-go/proto/key"
)

// TestMain checks that nothing is left running: gVisor's goroutines end with Stack.Close too.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	a4, a6 = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	b4, b6 = netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")
)

// node is a stack with a WireGuard device below it.
type node struct {
	*Stack
	wg     *device.Device
	public key.Public
}

// newPair makes two stacks that are joined by two WireGuard devices over loopback.
func newPair(t *testing.T, dns ...netip.Addr) (a, b *node) {
	t.Helper()
	start := func(addresses ...netip.Addr) *node {
		s, err := New(addresses, dns, 1420)
		if err != nil {
			t.Fatal(err)
		}
		var private key.Private
		if _, err := rand.Read(private[:]); err != nil {
			t.Fatal(err)
		}
		n := &node{Stack: s, public: private.Public()}
		n.wg = device.NewDevice(s.Device(), conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, ""))
		t.Cleanup(n.wg.Close)
		if err := n.wg.IpcSet("private_key=" + hex.EncodeToString(private[:]) + "\nlisten_port=0\n"); err != nil {
			t.Fatal(err)
		}
		if err := n.wg.Up(); err != nil {
			t.Fatal(err)
		}
		return n
	}
	a, b = start(a4, a6), start(b4, b6)
	join := func(n, peer *node, allowed ...netip.Addr) {
		state, err := peer.wg.IpcGet()
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := strings.Cut(state, "listen_port=")
		port, _, _ = strings.Cut(port, "\n")
		config := fmt.Sprintf("public_key=%s\nendpoint=127.0.0.1:%s\n", hex.EncodeToString(peer.public[:]), port)
		for _, ip := range allowed {
			config += fmt.Sprintf("allowed_ip=%s/%d\n", ip, ip.BitLen())
		}
		if err := n.wg.IpcSet(config); err != nil {
			t.Fatal(err)
		}
	}
	join(a, b, b4, b6)
	join(b, a, a4, a6)
	return a, b
}

// patience is for what takes a fraction of a second on an idle machine.
const patience = 30 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestTCP(t *testing.T) {
	a, b := newPair(t)
	ctx := testContext(t)
	for _, ip := range []netip.Addr{b4, b6} {
		l, err := b.ListenTCP(netip.AddrPortFrom(ip, 80))
		if err != nil {
			t.Fatal(err)
		}
		sum := make(chan []byte, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				sum <- []byte(err.Error())
				return
			}
			h := sha256.New()
			if _, err := io.Copy(h, c); err != nil {
				t.Error(err)
			}
			_, err = c.Write([]byte("done"))
			sum <- h.Sum(nil)
			if err = errors.Join(err, c.Close()); err != nil {
				t.Error(err)
			}
		}()
		c, err := a.DialContext(ctx, "tcp", netip.AddrPortFrom(ip, 80).String())
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 8<<20)
		if _, err := rand.Read(data); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if reply, err := io.ReadAll(c); string(reply) != "done" || err != nil {
			t.Errorf("reply: %q, %v", reply, err)
		}
		if want := sha256.Sum256(data); !bytes.Equal(<-sum, want[:]) {
			t.Errorf("%s: the data is not what was sent", ip)
		}
		if err := errors.Join(c.Close(), l.Close(), l.Close()); err != nil {
			t.Error(err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept after Close: got %v, want %v", err, net.ErrClosed)
		}
	}
	if _, err := a.DialContext(ctx, "tcp", "10.0.0.2:81"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a closed port: got %v, want a refusal", err)
	}
}

func TestUDP(t *testing.T) {
	a, b := newPair(t)
	ctx := testContext(t)
	for _, ip := range []netip.Addr{b4, b6} {
		l, err := b.ListenUDP(netip.AddrPortFrom(ip, 0))
		if err != nil {
			t.Fatal(err)
		}
		c, err := a.DialContext(ctx, "udp", l.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{1, 1000, 4000} { // the last one in fragments
			sent, got := bytes.Repeat([]byte{byte(size)}, size), make([]byte, 5000)
			if _, err := c.Write(sent); err != nil {
				t.Fatal(err)
			}
			n, from, err := l.ReadFrom(got)
			if err != nil || !bytes.Equal(got[:n], sent) {
				t.Fatalf("%d bytes: got %d, %v", size, n, err)
			}
			if _, err := l.WriteTo(got[:n], from); err != nil {
				t.Fatal(err)
			}
			if n, err = c.Read(got); err != nil || !bytes.Equal(got[:n], sent) {
				t.Fatalf("%d bytes back: got %d, %v", size, n, err)
			}
		}
		if err := errors.Join(c.Close(), l.Close()); err != nil {
			t.Error(err)
		}
	}
}

func TestPing(t *testing.T) {
	a, _ := newPair(t)
	ctx := testContext(t)
	for _, ip := range []netip.Addr{b4, b6, a4, a6} {
		if rtt, err := a.Ping(ctx, ip); err != nil || rtt <= 0 {
			t.Errorf("%s: got %v, %v", ip, rtt, err)
		}
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := a.Ping(short, netip.MustParseAddr("10.0.0.3")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody there: got %v, want %v", err, context.DeadlineExceeded)
	}
}

// TestEcho checks that the stack itself answers, without an endpoint: what the kernel of a peer would send.
func TestEcho(t *testing.T) {
	s, err := New([]netip.Addr{a4}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	body, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: 7, Seq: 9, Data: []byte("payload")}}).Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	h := ipv4.Header{Version: 4, Len: 20, TotalLen: 20 + len(body), TTL: 64, Protocol: 1, Src: b4.AsSlice(), Dst: a4.AsSlice()}
	head, err := h.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var sum uint32 // header checksum, RFC 1071
	for i := 0; i < 20; i += 2 {
		sum += uint32(head[i])<<8 | uint32(head[i+1])
	}
	sum = sum>>16 + sum&0xffff
	head[10], head[11] = byte(^sum>>8), byte(^sum)
	packet := append(append(make([]byte, 4), head...), body...)
	// Neither an empty packet nor one of another protocol stops the batch.
	if n, err := s.Device().Write([][]byte{make([]byte, 4), {0, 0, 0, 0, 0xf0}, packet}, 4); n != 3 || err != nil {
		t.Fatalf("Write: %d, %v", n, err)
	}
	buf, sizes := make([]byte, 2000), make([]int, 1)
	if n, err := s.Device().Read([][]byte{buf}, sizes, 16); n != 1 || err != nil {
		t.Fatalf("Read: %d, %v", n, err)
	}
	answer, err := icmp.ParseMessage(1, buf[16+20:16+sizes[0]])
	if err != nil {
		t.Fatal(err)
	}
	if echo, ok := answer.Body.(*icmp.Echo); !ok || answer.Type != ipv4.ICMPTypeEchoReply || echo.ID != 7 || echo.Seq != 9 || string(echo.Data) != "payload" {
		t.Errorf("got %+v", answer)
	}
}

func TestCloseEndsAll(t *testing.T) {
	a, b := newPair(t)
	ctx := testContext(t)
	l, err := b.ListenTCP(netip.AddrPortFrom(b4, 80))
	if err != nil {
		t.Fatal(err)
	}
	idle, err := a.ListenTCP(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	if err != nil {
		t.Fatal(err)
	}
	udp, err := a.ListenUDP(netip.AddrPortFrom(a6, 53))
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.DialContext(ctx, "tcp4", "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	go func() { _, err := c.Read(make([]byte, 1)); errs <- err }()
	go func() { _, err := idle.Accept(); errs <- err }()
	go func() { _, _, err := udp.ReadFrom(make([]byte, 1)); errs <- err }()
	go func() { _, err := a.Ping(ctx, netip.MustParseAddr("10.0.0.3")); errs <- err }()
	go func() { _, err := a.DialContext(ctx, "tcp", "10.0.0.3:80"); errs <- err }()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	for range 5 {
		select {
		case err := <-errs:
			if err == nil {
				t.Error("ended without an error")
			}
		case <-ctx.Done():
			t.Fatal("something did not end with Close")
		}
	}
	if err := a.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	<-a.wg.Wait() // the device ends with its stack
	for name, err := range map[string]error{
		"DialContext tcp": second(a.DialContext(ctx, "tcp", "10.0.0.2:80")),
		"DialContext udp": second(a.DialContext(ctx, "udp", "10.0.0.2:80")),
		"ListenTCP":       second(a.ListenTCP(netip.AddrPortFrom(a4, 1))),
		"ListenUDP":       second(a.ListenUDP(netip.AddrPortFrom(a4, 1))),
		"Ping":            second(a.Ping(ctx, b4)),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close: got %v, want %v", name, err, net.ErrClosed)
		}
	}
	if _, err := a.Device().Write([][]byte{{0x45}}, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write after Close: got %v", err)
	}
	if _, err := a.Device().Read([][]byte{make([]byte, 2000)}, make([]int, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read after Close: got %v", err)
	}
	_ = far.Close() // its other end is gone
}

func second[T any](_ T, err error) error { return err }

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		addresses []netip.Addr
		mtu       int
	}{
		{nil, 67}, {nil, 65536}, {[]netip.Addr{{}}, 1420}, {[]netip.Addr{netip.IPv4Unspecified()}, 1420},
		{[]netip.Addr{a4, a4}, 1420}, {[]netip.Addr{netip.MustParseAddr("224.0.0.1")}, 1420},
	} {
		if _, err := New(c.addresses, nil, c.mtu); err == nil {
			t.Errorf("%v with MTU %d was accepted", c.addresses, c.mtu)
		}
	}
	s, err := New([]netip.Addr{a4}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := testContext(t)
	for _, c := range []struct{ network, address string }{
		{"ip", "10.0.0.2:1"}, {"tcp", "10.0.0.2"}, {"tcp", "10.0.0.2:http"}, {"tcp", "10.0.0.2:65536"}, {"tcp6", "10.0.0.2:1"},
		{"tcp", "[fd00::2]:1"}, {"tcp", "example.org:1"}, {"udp", "10.0.0.2:0"},
	} {
		if _, err := s.DialContext(ctx, c.network, c.address); err == nil {
			t.Errorf("%s %s was dialled", c.network, c.address)
		}
	}
	if _, err := s.Ping(ctx, b6); !errors.Is(err, errNoAddress) {
		t.Errorf("ping without an address of the family: got %v", err)
	}
	if _, err := s.ListenTCP(netip.AddrPortFrom(b4, 1)); err == nil {
		t.Error("listening on another's address")
	}
	if _, err := s.DialUDP(netip.AddrPortFrom(a6, 0), netip.AddrPortFrom(b4, 1)); err == nil {
		t.Error("two families in one connection")
	}
}

// TestForgottenBeforePortIsReused has the acknowledgement of an end be lost, so that the end is sent twice: the other side must not remember the
// connection for longer than the one that may use its port for another.
func TestForgottenBeforePortIsReused(t *testing.T) {
	t.Parallel()
	var ended, lost atomic.Bool
	a, b := newLossyWire(t, func(toB bool, packet []byte) bool {
		segment := header.TCP(header.IPv4(packet).Payload())
		if toB {
			return ended.Load() && segment.Flags() == header.TCPFlagAck && lost.CompareAndSwap(false, true)
		}
		if segment.Flags().Contains(header.TCPFlagFin) {
			ended.Store(true)
		}
		return false
	})
	serveEcho(t, b, 80)
	c, err := a.DialContext(testContext(t), "tcp", "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	if err := swap(c); err != nil {
		t.Fatal(err)
	}
	c.Close()
	remembered := func(s *Stack) (found bool) {
		s.connections(func(_ *tcp.Endpoint, state tcp.EndpointState) bool {
			found = state != tcp.StateListen
			return !found
		})
		return found
	}
	if !remembered(a) {
		t.Error("the side that ended first has forgotten the connection at once")
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); remembered(a); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("the connection is remembered for a minute")
		}
	}
	if remembered(b) {
		t.Error("one side has forgotten the connection, not the other")
	}
	if !lost.Load() {
		t.Error("no acknowledgement was lost")
	}
}
