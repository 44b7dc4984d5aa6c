package device

import (
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/inproc"
	"github.com/wice-go/wice-go/signal/session"
)

func TestInnerLimit(t *testing.T) {
	for _, c := range []struct{ size, mtu, want int }{
		{1452, 1420, 1420},
		{1500, 1420, 1420},
		{1451, 1420, 1408}, // 1409 bytes would be padded to 1420
		{1252, 1420, 1216},
		{1247, 1420, 1200},
		{31, 1420, 0},
		{1312, 1280, 1280},
		{1311, 1280, 1264},
	} {
		if got := innerLimit(c.size, c.mtu); got != c.want {
			t.Errorf("datagrams of %d bytes and MTU %d: got %d, want %d", c.size, c.mtu, got, c.want)
		}
	}
}

// What a TURN server can be sent in one piece, with the default MTU inside.
func TestRelayBound(t *testing.T) {
	for _, c := range []struct {
		name string
		path *session.Path
		want pathMTU
	}{
		{"UDP over IPv4", &session.Path{RelayProtocol: "udp"}, pathMTU{inner: 1420}},
		{"UDP over IPv6", &session.Path{RelayProtocol: "udp", RelayIPv6: true}, pathMTU{inner: 1408, path: 1500}},
		{"DTLS over IPv6", &session.Path{RelayProtocol: "dtls", RelayIPv6: true}, pathMTU{inner: 1376, path: 1500}},
		{"TLS", &session.Path{RelayProtocol: "tls"}, pathMTU{inner: 1420}},
		{"TCP without a relay", &session.Path{Network: proto.TCP4}, pathMTU{inner: 1420}},
	} {
		got := pathMTU{inner: 1420}
		if bound := relayBound(c.path); bound > 0 {
			got = limitedMTU(bound, ethernetMTU, 1420)
		}
		if got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

// lines collects a log.
type lines struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), s)
}

// TestPathMTU follows what is known of a peer's path into the clamp, the log and the status.
func TestPathMTU(t *testing.T) {
	log := new(lines)
	peerKey := key.NewPrivate()
	a := newEndWith(t, key.NewPrivate(), "10.7.0.1", peerSection(peerKey, "10.7.0.2", "#!wice Lazy = true\n#!wice Name = bob"), Options{
		Backends:        inprocBackend(new(inproc.Bus)),
		IncludeLoopback: true,
		Logger:          slog.New(slog.NewTextHandler(log, nil)),
	})
	if err := a.Up(0); err != nil {
		t.Fatal(err)
	}
	p := a.lookup(peerKey.Public())
	direct := func(generation uint64) *session.Path {
		remote := session.CandidateInfo{Address: netip.MustParseAddrPort("127.0.0.1:9")}
		return &session.Path{Direct: true, Generation: generation, Remote: remote}
	}
	onPath := func(path *session.Path) {
		a.onPath(p, path)
		p.endpoint.SetPath(nil) // nobody but the test finds anything
	}
	want := func(what string, limit int, m pathMTU) {
		t.Helper()
		if got := p.clamp.Limit(); got != limit {
			t.Errorf("%s: the clamp has the limit %d, want %d", what, got, limit)
		}
		if got := a.mtuOf(p); got != m {
			t.Errorf("%s: got %+v, want %+v", what, got, m)
		}
	}
	onPath(direct(1))
	want("a new path", 0, pathMTU{})
	first := p.path
	a.onMTU(p, first, 1252, 1280, pathMTU{})
	a.onMTU(p, first, 1252, 1280, pathMTU{})
	want("a narrow path", 1216, pathMTU{inner: 1216, path: 1280})
	if n := log.count("path MTU to bob is 1280: packets over 1216 B are clamped"); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
	onPath(direct(2))
	want("another path", 1216, pathMTU{inner: 1216, path: 1280})
	a.onMTU(p, first, 1228, 1256, pathMTU{})
	want("late news of the first path", 1216, pathMTU{inner: 1216, path: 1280})
	a.onMTU(p, p.path, 1452, 1480, pathMTU{})
	want("a wide path", 0, pathMTU{inner: 1420})
	if n := log.count("packets to bob are clamped no more"); n != 1 {
		t.Errorf("the end of the limit is logged %d times, want once", n)
	}
	a.onMTU(p, p.path, 1252, 1280, pathMTU{})
	a.onMTU(p, p.path, 0, 0, pathMTU{})
	want("nothing is known", 0, pathMTU{})
	a.onMTU(p, p.path, 1252, 1280, pathMTU{})
	onPath(nil)
	want("no path", 0, pathMTU{})

	s := icePath(direct(1), pathMTU{inner: 1216, path: 1280})
	if s.MTU != 1216 || s.PathMTU != 1280 || s.Kind != control.PathDirect {
		t.Errorf("status: got %+v", s)
	}
}
