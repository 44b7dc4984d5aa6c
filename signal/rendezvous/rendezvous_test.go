package rendezvous

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/libp2p"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/ipfs/go-log/v2/writer.(*MirrorWriter).logRoutine"), // a package of kad-dht starts it for good
	)
}

var loopback = netip.MustParseAddr("127.0.0.1")

var discard = slog.New(slog.DiscardHandler)

// start runs a server on loopback with ports chosen by the system.
func start(t *testing.T, change func(*Options)) *Server {
	t.Helper()
	o := Options{Addresses: []netip.Addr{loopback}, Relay: true, AllowPrivate: true}
	if change != nil {
		change(&o)
	}
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// sink records what a backend reports.
type sink struct {
	envelopes chan string
	available chan key.Public
	servers   chan struct{}
}

func newSink() *sink {
	return &sink{make(chan string, 256), make(chan key.Public, 256), make(chan struct{}, 256)}
}

func (s *sink) Deliver(b []byte)           { s.envelopes <- string(b) }
func (s *sink) PeerAvailable(k key.Public) { s.available <- k }
func (s *sink) ICEServersChanged()         { s.servers <- struct{}{} }

const patience = 20 * time.Second

func wait[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s", what)
		panic("unreachable")
	}
}

type client struct {
	*sink
	key     key.Private
	backend signal.Backend
}

// join makes a client of the server, without multicast DNS.
func join(t *testing.T, s *Server, extra url.Values) *client {
	t.Helper()
	c := &client{sink: newSink(), key: key.NewPrivate()}
	q := url.Values{"bootstrap": s.Bootstraps(), "mdns": {"false"}}
	for name, values := range extra {
		q[name] = values
	}
	var err error
	c.backend, err = libp2p.New(t.Context(), signal.Env{Identity: c.key, Sink: c.sink}, []url.Values{q})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.backend.Close() })
	return c
}

func acquaint(clients ...*client) {
	var keys []key.Public
	for _, c := range clients {
		keys = append(keys, c.key.Public())
	}
	for _, c := range clients {
		c.backend.SetPeers(keys)
	}
}

// publish tries until the envelope is taken, as a session does.
func publish(t *testing.T, from, to *client, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := from.backend.Publish(ctx, to.key.Public(), []byte(text))
		if err == nil {
			break
		}
		select {
		case <-from.available:
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
	if got := wait(t, "envelope", to.envelopes); got != text {
		t.Fatalf("got %q, want %q", got, text)
	}
}

func TestCircuit(t *testing.T) {
	s := start(t, nil)
	a, b := join(t, s, url.Values{"dht": {"false"}}), join(t, s, url.Values{"dht": {"false"}})
	acquaint(a, b)
	publish(t, a, b, "hello")
	publish(t, b, a, "hello yourself")
	if got := a.backend.Status(); !got.Connected || got.Detail != "1 of 1 bootstrap connected" {
		t.Errorf("got %+v", got)
	}
}

func TestICEServersReachTheClient(t *testing.T) {
	s := start(t, nil)
	a := join(t, s, nil)
	wait(t, "ICE servers", a.servers)
	servers := a.backend.(signal.ICEServerSource).ICEServers()
	var kinds []string
	for _, v := range servers {
		kinds = append(kinds, string(v.Scheme)+"/"+string(v.Transport))
		if v.Host != "127.0.0.1" {
			t.Errorf("got host %s, want the announced address", v.Host)
		}
	}
	if got := strings.Join(kinds, " "); got != "stun/udp turn/udp turn/tcp stun/udp" {
		t.Errorf("got %s", got)
	}
}

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	s, err := Start(t.Context(), Options{Addresses: []netip.Addr{loopback}, StateDir: dir, Relay: true, AllowPrivate: true})
	if err != nil {
		t.Fatal(err)
	}
	port, stunPort, lines := s.port, s.STUNPort(), s.Lines()
	a, b := join(t, s, nil), join(t, s, nil)
	acquaint(a, b)
	publish(t, a, b, "before")
	wait(t, "ICE servers", a.servers)
	s.Close()
	if n := len(a.backend.(signal.ICEServerSource).ICEServers()); n == 0 {
		t.Error("the ICE servers were forgotten while the rendezvous is away")
	}

	again := start(t, func(o *Options) { o.StateDir, o.Port, o.STUNPort = dir, port, stunPort })
	began := time.Now()
	if got := again.Lines(); got[0] != lines[0] {
		t.Errorf("got %s after the restart, want %s", got, lines)
	}
	publish(t, a, b, "after")
	t.Logf("published %v after the restart", time.Since(began))
	if info, err := os.Stat(filepath.Join(dir, identityFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("identity file: got %v, %v; want mode 0600", info.Mode(), err)
	}
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = Start(t.Context(), Options{Addresses: []netip.Addr{loopback}, Port: addrPort(l.Addr()).Port()})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "--port") {
		t.Errorf("got %v", err)
	}
	_, err = Start(t.Context(), Options{Addresses: []netip.Addr{loopback}, STUNPort: addrPort(l.Addr()).Port(), Relay: true})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "--stun-port") {
		t.Errorf("got %v", err)
	}
}

func TestStateIsDamaged(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, identityFile), []byte("oops"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Options{Addresses: []netip.Addr{loopback}, StateDir: dir})
	if err == nil || !strings.Contains(err.Error(), identityFile) {
		t.Errorf("got %v, want an error that names the file", err)
	}
}

func TestWithoutRelay(t *testing.T) {
	s := start(t, func(o *Options) { o.Relay = false })
	a := join(t, s, nil)
	wait(t, "ICE servers", a.servers)
	for _, v := range a.backend.(signal.ICEServerSource).ICEServers() {
		if v.Scheme != proto.STUN {
			t.Errorf("got %v, want STUN only", v)
		}
	}
}
