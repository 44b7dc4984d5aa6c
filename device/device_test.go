package device

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/inproc"
	"github.com/wice-go/wice-go/test/program"
	"github.com/wice-go/wice-go/tun/netstack"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// end is one end of a tunnel, rootless, with signaling inside this process.
type end struct {
	*Device
	private key.Private
	address netip.Addr
	stack   *netstack.Stack
}

const patience = 20 * time.Second // for what takes a fraction of a second on an idle machine

func newEnd(t *testing.T, bus *inproc.Bus, private key.Private, address, peers string) *end {
	t.Helper()
	return newEndWith(t, private, address, peers, Options{Backends: inprocBackend(bus), IncludeLoopback: true})
}

func inprocBackend(bus *inproc.Bus) []Backend {
	factory := func(ctx context.Context, env signal.Env, lines []url.Values) (signal.Backend, error) {
		return bus.New(ctx, env, lines)
	}
	return []Backend{{Name: "inproc", Factory: factory}}
}

// newEndWith fills in what the options leave out.
func newEndWith(t *testing.T, private key.Private, address, peers string, o Options) *end {
	t.Helper()
	e := &end{private: private, address: netip.MustParseAddr(address)}
	text := fmt.Sprintf("[Interface]\nPrivateKey = %s\nAddress = %s/24\n%s", private.Base64(), address, peers)
	var err error
	if o.Config, err = config.Parse("test.conf", strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	if e.stack, err = netstack.New([]netip.Addr{e.address}, nil, 1420); err != nil {
		t.Fatal(err)
	}
	o.Name, o.Tun, o.TunKind, o.Ping = "test", e.stack.Device(), "netstack", e.stack.Ping
	if e.Device, err = New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func peerSection(k key.Private, address, more string) string {
	return fmt.Sprintf("[Peer]\nPublicKey = %s\nAllowedIPs = %s/32\n%s\n", k.Public(), address, more)
}

// ping fails the test unless the other end answers.
func (e *end) ping(t *testing.T, to netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		try, cancel := context.WithTimeout(ctx, time.Second)
		_, err := e.stack.Ping(try, to)
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("ping %s: %v", to, err)
		}
	}
}

// until waits for the status of the first peer to be as wanted.
func (e *end) until(t *testing.T, what string, ok func(*control.Status) bool) *control.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := e.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if ok(s) {
			return s
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: got %+v", what, s)
		}
	}
}

func connected(s *control.Status) bool {
	return len(s.Peers) == 1 && s.Peers[0].State == control.StateConnected
}

// uapi sends one operation through the configuration protocol and returns the answer.
func (e *end) uapi(t *testing.T, text string) string {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); e.HandleUAPI(theirs) }()
	defer func() { ours.Close(); <-done }()
	go io.WriteString(ours, text)
	var answer strings.Builder
	lines := bufio.NewReader(ours)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("UAPI %q: %v", text, err)
		}
		if line == "\n" {
			return answer.String()
		}
		answer.WriteString(line)
	}
}

func TestTunnel(t *testing.T) {
	var bus inproc.Bus
	ka, kb := key.NewPrivate(), key.NewPrivate()
	a := newEnd(t, &bus, ka, "10.7.0.1", peerSection(kb, "10.7.0.2", "#!wice Name = bob"))
	b := newEnd(t, &bus, kb, "10.7.0.2", peerSection(ka, "10.7.0.1", "PersistentKeepalive = 25"))
	for _, e := range []*end{a, b} {
		if err := e.Up(0); err != nil {
			t.Fatal(err)
		}
	}
	a.ping(t, b.address)
	b.ping(t, a.address)

	s := a.until(t, "connected", connected)
	p := s.Peers[0]
	if p.Name != "bob" || p.Path == nil || p.Path.Kind != control.PathDirect || p.Path.Local.Type != "host" || p.Reason != "" || p.RxBytes == 0 || p.LastHandshake.IsZero() {
		t.Errorf("got %+v, path %+v", p, p.Path)
	}
	reply, err := a.Ping(t.Context(), control.PingRequest{Peer: "bob"})
	if err != nil || reply.Address != b.address || reply.Path == nil {
		t.Errorf("got %+v, %v", reply, err)
	}
	if _, err := a.Ping(t.Context(), control.PingRequest{Peer: "eve"}); err == nil || !strings.Contains(err.Error(), "no such peer") {
		t.Errorf("got %v", err)
	}
}

// TestPeerRestarts replaces one end by a fresh process with the same key: the tunnel comes back without WireGuard's own 15 s.
func TestPeerRestarts(t *testing.T) {
	var bus inproc.Bus
	ka, kb := key.NewPrivate(), key.NewPrivate()
	for range 2 { // whoever is ICE-controlling
		ka, kb = kb, ka
		a := newEnd(t, &bus, ka, "10.7.0.1", peerSection(kb, "10.7.0.2", ""))
		b := newEnd(t, &bus, kb, "10.7.0.2", peerSection(ka, "10.7.0.1", ""))
		a.Up(0)
		b.Up(0)
		a.ping(t, b.address)
		b.Close()
		b = newEnd(t, &bus, kb, "10.7.0.2", peerSection(ka, "10.7.0.1", ""))
		b.Up(0)
		a.ping(t, b.address)
		s := a.until(t, "connected again", connected)
		if s.Peers[0].Restarts == 0 {
			t.Error("got no restart")
		}
		a.Close()
		b.Close()
	}
}

// TestSetAddsAndRemoves uses the UAPI as wg(8) does.
func TestSetAddsAndRemoves(t *testing.T) {
	var bus inproc.Bus
	ka, kb := key.NewPrivate(), key.NewPrivate()
	a := newEnd(t, &bus, ka, "10.7.0.1", "")
	b := newEnd(t, &bus, kb, "10.7.0.2", peerSection(ka, "10.7.0.1", ""))
	a.Up(0)
	b.Up(0)
	if got := a.uapi(t, "set=1\npublic_key="+kb.Public().Hex()+"\nallowed_ip=10.7.0.2/32\npersistent_keepalive_interval=25\n\n"); got != "errno=0\n" {
		t.Fatalf("set: got %q", got)
	}
	a.ping(t, b.address)
	got := a.uapi(t, "get=1\n\n")
	for _, want := range []string{"private_key=" + ka.Hex(), "public_key=" + kb.Public().Hex(), "persistent_keepalive_interval=25", "allowed_ip=10.7.0.2/32", "endpoint=", "errno=0"} {
		if !strings.Contains(got, want) {
			t.Errorf("get: %q is missing in %q", want, got)
		}
	}
	if got := a.uapi(t, "set=1\npublic_key="+kb.Public().Hex()+"\nremove=true\n\n"); got != "errno=0\n" {
		t.Fatalf("remove: got %q", got)
	}
	if s, _ := a.Status(t.Context()); len(s.Peers) != 0 || a.lookup(kb.Public()) != nil {
		t.Errorf("the peer is still there: %+v", s)
	}
}

func TestUAPIRefuses(t *testing.T) {
	var bus inproc.Bus
	a := newEnd(t, &bus, key.NewPrivate(), "10.7.0.1", "")
	stranger := key.NewPrivate().Public().Hex()
	for _, c := range []struct{ text, want string }{
		{"set=1\nnonsense\n\n", "errno=-71\n"},
		{"set=1\nlisten_port=x\n\n", "errno=-22\n"},
		{"set=1\npublic_key=zz\n\n", "errno=-22\n"},
		{"set=1\npublic_key=" + stranger + "\nendpoint=example.com:1\n\n", "errno=-22\n"},
		{"set=1\npublic_key=" + stranger + "\npersistent_keepalive_interval=-1\n\n", "errno=-22\n"},
		{"get=1\nx", "errno=-22\n"},
	} {
		if got := a.uapi(t, c.text); !strings.HasSuffix(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.text, got, c.want)
		}
	}
}

// TestNoEndpointYet checks that wg(8), which takes no empty endpoint, sees none.
func TestNoEndpointYet(t *testing.T) {
	var bus inproc.Bus
	kb := key.NewPrivate()
	a := newEnd(t, &bus, key.NewPrivate(), "10.7.0.1", peerSection(kb, "10.7.0.2", "PersistentKeepalive = 1"))
	a.Up(0)
	if got := a.uapi(t, "get=1\n\n"); strings.Contains(got, "endpoint=") {
		t.Errorf("got %q", got)
	}
	s := a.until(t, "a reason", func(s *control.Status) bool { return s.Peers[0].State == control.StateConnecting })
	if s.Peers[0].Reason == "" || s.Peers[0].Path != nil {
		t.Errorf("got %+v", s.Peers[0])
	}
}

// TestStaticEndpoint connects an ICE peer to one that knows nothing of ICE, over the address in its file.
func TestStaticEndpoint(t *testing.T) {
	ka, kb := key.NewPrivate(), key.NewPrivate()
	b := newEnd(t, new(inproc.Bus), kb, "10.7.0.2", peerSection(ka, "10.7.0.1", "#!wice ICE = off"))
	b.Up(0)
	sb, err := b.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a := newEnd(t, new(inproc.Bus), ka, "10.7.0.1", peerSection(kb, "10.7.0.2", fmt.Sprintf("Endpoint = 127.0.0.1:%d", sb.ListenPort)))
	a.Up(0)
	a.ping(t, b.address)
	s := a.until(t, "plain", func(s *control.Status) bool { return s.Peers[0].State == control.StatePlain })
	if p := s.Peers[0].Path; p == nil || p.Kind != control.PathPlain || p.Remote.Address.Port() != sb.ListenPort {
		t.Errorf("got %+v", p)
	}
	s = b.until(t, "plain", func(s *control.Status) bool { return s.Peers[0].Path != nil })
	if s.Peers[0].State != control.StatePlain || !strings.Contains(s.Peers[0].Reason, "ICE = off") {
		t.Errorf("got %+v", s.Peers[0])
	}
}

func TestPortInUse(t *testing.T) {
	c, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	port := c.LocalAddr().(*net.UDPAddr).Port
	cfg, err := config.Parse("test.conf", strings.NewReader(fmt.Sprintf("[Interface]\nPrivateKey = %s\nListenPort = %d\n", key.NewPrivate().Base64(), port)))
	if err != nil {
		t.Fatal(err)
	}
	stack, err := netstack.New([]netip.Addr{netip.MustParseAddr("10.7.0.1")}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Options{Name: "test", Config: cfg, Tun: stack.Device(), TunKind: "netstack"})
	if err == nil {
		defer d.Close()
		err = d.Up(0)
	}
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(port)) {
		t.Errorf("got %v, want an error that names port %d", err, port)
	}
}

// TestNetworkIsPolledWhileDown checks that sockets which are closed for a while are not taken for another network: what has begun again by then would
// begin once more.
func TestNetworkIsPolledWhileDown(t *testing.T) {
	var log program.Buffer
	e := newEndWith(t, key.NewPrivate(), "10.0.0.1", "", Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	seed := maphash.MakeSeed()
	changes := func() int { return strings.Count(log.String(), "network changed") }
	poll := func(last uint64) (now uint64, changed bool) {
		before := changes()
		now = e.pollNetwork(seed, last)
		return now, changes() > before
	}
	if err := e.wg.Up(); err != nil {
		t.Fatal(err)
	}
	first, changed := poll(0)
	if first == 0 || changed {
		t.Errorf("the first poll: got %d, %t", first, changed)
	}
	if err := e.wg.Down(); err != nil {
		t.Fatal(err)
	}
	if last, changed := poll(first); last != first || changed {
		t.Errorf("while it is down: got %d, %t, want %d", last, changed, first)
	}
	if err := e.wg.Up(); err != nil {
		t.Fatal(err)
	}
	if last, changed := poll(first); last != first || changed {
		t.Errorf("up again: got %d, %t, want %d", last, changed, first)
	}
	if last, changed := poll(first + 1); last != first || !changed {
		t.Errorf("other addresses: got %d, %t", last, changed)
	}
}

func TestUAPISocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sock")
	l, err := ListenUAPI(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUAPI(path); !errors.Is(err, control.ErrInUse) {
		t.Errorf("second listener: got %v", err)
	}
	l.Close()
	if l, err = ListenUAPI(path); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	removed := make(chan error)
	go func() { _, err := l.Accept(); removed <- err }()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-removed:
		if err == nil {
			t.Error("got a connection, want an error")
		}
	case <-time.After(patience):
		t.Error("the removal of the socket was not noticed")
	}
}

// TestTCP connects two ends that may use nothing but ICE-TCP (RFC 6544).
func TestTCP(t *testing.T) {
	var bus inproc.Bus
	ka, kb := key.NewPrivate(), key.NewPrivate()
	a := newEnd(t, &bus, ka, "10.7.0.1", "#!wice NetworkTypes = tcp4\n"+peerSection(kb, "10.7.0.2", ""))
	b := newEnd(t, &bus, kb, "10.7.0.2", "#!wice NetworkTypes = tcp4\n"+peerSection(ka, "10.7.0.1", ""))
	a.Up(0)
	b.Up(0)
	a.ping(t, b.address)
	s := a.until(t, "connected", connected)
	if p := s.Peers[0].Path; p == nil || p.Protocol != "tcp" || p.Kind != control.PathDirect {
		t.Errorf("got %+v", p)
	}
}

func TestFullTunnelLeavesTCPOut(t *testing.T) {
	for _, c := range []struct {
		more string
		want bool
	}{
		{"", false},
		{"FwMark = 7\n", true},
		{"[Peer]\nPublicKey = " + key.NewPrivate().Public().String() + "\nAllowedIPs = ::/0\n", true},
		{"Table = off\n[Peer]\nPublicKey = " + key.NewPrivate().Public().String() + "\nAllowedIPs = ::/0\n", false},
	} {
		cfg, err := config.Parse("test.conf", strings.NewReader("[Interface]\nPrivateKey = "+key.NewPrivate().Base64()+"\n"+c.more))
		if err != nil {
			t.Fatal(err)
		}
		types, err := networkTypes(cfg, marked(cfg))
		if got := !slices.ContainsFunc(types, proto.NetworkType.IsTCP); got != c.want || err != nil {
			t.Errorf("%q: got %v, %v, want %v", c.more, got, err, c.want)
		}
		cfg.Interface.NetworkTypes = []proto.NetworkType{proto.TCP4}
		if _, err := networkTypes(cfg, marked(cfg)); (err != nil) != c.want {
			t.Errorf("%q with nothing but TCP: got %v", c.more, err)
		}
	}
}
