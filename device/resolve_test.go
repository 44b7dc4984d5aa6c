package device

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/inproc"
)

// nameServer answers every question for an IPv4 address with the same one, and knows no name as long as there is none.
type nameServer struct {
	conn   net.PacketConn
	answer atomic.Pointer[netip.Addr]
	asked  chan struct{} // one for each question, as far as there is room
}

func newNameServer(t *testing.T) *nameServer {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{conn: c, asked: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() { defer close(done); s.serve() }()
	t.Cleanup(func() { c.Close(); <-done })
	return s
}

func (s *nameServer) serve() {
	buf := make([]byte, 512)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Response, m.Additionals = true, nil
		q := m.Questions[0]
		switch addr := s.answer.Load(); {
		case addr == nil:
			m.RCode = dnsmessage.RCodeNameError
		case q.Type == dnsmessage.TypeA:
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: addr.As4()},
			}}
		}
		if b, err := m.Pack(); err == nil {
			s.conn.WriteTo(b, from)
		}
		select {
		case s.asked <- struct{}{}:
		default:
		}
	}
}

func (s *nameServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", s.conn.LocalAddr().String())
	}}
}

// newNamed makes a device with one peer, whose endpoint is a name. It does not bring it up.
func newNamed(t *testing.T, s *nameServer, ka, kb key.Private, port uint16) *end {
	t.Helper()
	peer := peerSection(kb, "10.7.0.2", fmt.Sprintf("Endpoint = peer.example.:%d", port))
	return newEndWith(t, ka, "10.7.0.1", peer, Options{Resolver: s.resolver()})
}

// TestNamedEndpoint connects to a peer that only its name leads to, which is found on the second attempt.
func TestNamedEndpoint(t *testing.T) {
	ka, kb := key.NewPrivate(), key.NewPrivate()
	b := newEnd(t, new(inproc.Bus), kb, "10.7.0.2", peerSection(ka, "10.7.0.1", "#!wice ICE = off"))
	if err := b.Up(0); err != nil {
		t.Fatal(err)
	}
	sb, err := b.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := newNameServer(t)
	a := newNamed(t, names, ka, kb, sb.ListenPort)
	if err := a.Up(0); err != nil {
		t.Fatal(err)
	}
	<-names.asked
	loopback := netip.MustParseAddr("127.0.0.1")
	names.answer.Store(&loopback)
	s := a.until(t, "an endpoint", func(s *control.Status) bool { return s.Peers[0].Path != nil })
	if got, want := s.Peers[0].Path.Remote.Address, netip.AddrPortFrom(loopback, sb.ListenPort); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	a.ping(t, b.address)
}

// TestResolveEndpoints looks the name up before the interface is up, as a full tunnel needs it.
func TestResolveEndpoints(t *testing.T) {
	names := newNameServer(t)
	a := newNamed(t, names, key.NewPrivate(), key.NewPrivate(), 51820)
	a.ResolveEndpoints(t.Context())
	if got := a.uapi(t, "get=1\n\n"); strings.Contains(got, "endpoint=") {
		t.Errorf("unknown name: got %q", got)
	}
	want := netip.MustParseAddr("192.0.2.1")
	names.answer.Store(&want)
	a.ResolveEndpoints(t.Context())
	if got := a.uapi(t, "get=1\n\n"); !strings.Contains(got, "endpoint=192.0.2.1:51820\n") {
		t.Errorf("known name: got %q", got)
	}
}

// readFunc is an [io.Reader].
type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }

// TestNameFoundMeanwhile finds a name in the middle of a set operation that makes its peer: WireGuard has that already, the table does not.
func TestNameFoundMeanwhile(t *testing.T) {
	a := newEnd(t, new(inproc.Bus), key.NewPrivate(), "10.7.0.1", "")
	bob := key.NewPrivate().Public()
	n := &namedEndpoint{peer: bob, name: "192.0.2.1:9", ctx: t.Context()}
	found := make(chan bool, 1)
	lines := 0
	set := &setOperation{device: a.Device, text: []byte("public_key=" + bob.Hex() + "\n")}
	a.uapiMu.Lock()
	err := a.wg.IpcSetOperation(readFunc(func(b []byte) (int, error) {
		if lines++; lines == 2 {
			go func() { found <- a.resolve(t.Context(), n) }()
			select {
			case ok := <-found:
				found <- ok
			case <-time.After(100 * time.Millisecond): // it waits for the operation
			}
		}
		return set.Read(b)
	}))
	err = errors.Join(err, a.reconcile())
	a.uapiMu.Unlock()
	if ok := <-found; !ok || err != nil {
		t.Fatalf("got %v and %v", ok, err)
	}
	if got := a.uapi(t, "get=1\n\n"); !strings.Contains(got, "endpoint=192.0.2.1:9\n") {
		t.Errorf("got %q", got)
	}
}

// TestReloadBeforeUp gives a peer another name before the interface is up: Up alone has it looked up, lest it be twice for as long as the device runs.
func TestReloadBeforeUp(t *testing.T) {
	ka, kb := key.NewPrivate(), key.NewPrivate()
	names := newNameServer(t)
	a := newNamed(t, names, ka, kb, 51820)
	file := *a.Config()
	file.Peers = slices.Clone(file.Peers)
	file.Peers[0].Endpoint = "other.example.:51820"
	if plan, err := a.Reload(&file); err != nil || len(plan.Changes) != 1 {
		t.Fatalf("got %+v, %v", plan, err)
	}
	idle := make(chan struct{})
	go func() { a.tasks.Wait(); close(idle) }()
	select {
	case <-idle:
	case <-time.After(patience):
		t.Error("the name is looked up before Up")
	}
	if err := a.Up(0); err != nil {
		t.Fatal(err)
	}
	<-names.asked
}
