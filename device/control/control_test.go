package control

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/wice-go/wice-go/proto/key"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testStatus() *Status {
	return &Status{
		Interface: "wg0", PublicKey: "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", ListenPort: 51820, Tun: "kernel",
		Signaling: []SignalingStatus{{Backend: "libp2p", Connected: true, Detail: "2 peers"}},
		Peers: []PeerStatus{
			{
				PublicKey: "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=", Name: "alice", AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")},
				State: StateConnected,
				Path: &PathStatus{
					Kind: PathRelay, Protocol: "tcp", Local: EndStatus{"relay", netip.MustParseAddrPort("192.0.2.9:50000")},
					Remote: EndStatus{"srflx", netip.MustParseAddrPort("[2001:db8::7]:51820")},
					MTU:    1216, PathMTU: 1280,
				},
				Reason: "UDP blocked: relayed over TCP", RoundTripMs: 1.25, RxBytes: 1 << 60, TxBytes: 7,
				LastHandshake: time.Date(2026, 8, 1, 12, 0, 0, 0, time.FixedZone("", 7200)), Restarts: 3,
			},
			{PublicKey: "gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=", State: StateIdle, Reason: "no packet yet"},
		},
	}
}

// goldenStatus is the schema that programs of others rely on.
const goldenStatus = `{"version":1,"interface":"wg0","publicKey":"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=","listenPort":51820,"tun":"kernel",` +
	`"signaling":[{"backend":"libp2p","connected":true,"detail":"2 peers"}],` +
	`"peers":[{"publicKey":"TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=","name":"alice","allowedIPs":["10.0.0.2/32"],"state":"connected",` +
	`"path":{"kind":"relay","local":{"type":"relay","address":"192.0.2.9:50000"},"remote":{"type":"srflx","address":"[2001:db8::7]:51820"},"protocol":"tcp","mtu":1216,"pathMtu":1280},` +
	`"reason":"UDP blocked: relayed over TCP","roundTripMs":1.25,"rxBytes":1152921504606846976,"txBytes":7,"lastHandshake":"2026-08-01T10:00:00Z","restarts":3},` +
	`{"publicKey":"gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=","name":"","allowedIPs":[],"state":"idle","reason":"no packet yet","rxBytes":0,"txBytes":0,"restarts":0}]}`

func TestStatusJSON(t *testing.T) {
	b, err := json.Marshal(testStatus())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(goldenStatus, string(b)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	b, err = json.Marshal(Status{})
	if err != nil || !strings.Contains(string(b), `"signaling":[],"peers":[]`) {
		t.Errorf("empty: got %s, %v", b, err)
	}
	s := testStatus()
	if _, err := json.Marshal(s); err != nil || s.Peers[1].AllowedIPs != nil {
		t.Errorf("encoding changed the snapshot: %v, %v", s.Peers[1].AllowedIPs, err)
	}
}

func TestNotConnected(t *testing.T) {
	pk := key.NewPrivate().Public()
	s := Status{Peers: []PeerStatus{
		{Name: "alice", State: StateConnected},
		{Name: "bob", State: StateFailed, Reason: "no pair worked", AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}},
		{PublicKey: pk.String(), State: StateConnecting, Reason: "no offer", AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.7.0.0/16")}},
		{Name: "carol", State: StatePlain, Reason: "ICE = off"},
	}}
	if got, want := strings.Join(s.NotConnected(), "\n"), "bob: failed: no pair worked\n"+pk.Short()+": connecting: no offer"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, c := range []struct {
		addr string
		want *PeerStatus
	}{{"10.1.0.1", &s.Peers[1]}, {"10.7.0.1", &s.Peers[2]}, {"fd00::1", &s.Peers[1]}, {"192.0.2.1", nil}, {"::1", nil}} {
		if got := s.RouteTo(netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.addr, got, c.want)
		}
	}
}

func TestWriteMetrics(t *testing.T) {
	s := testStatus()
	s.Peers[0].Name = "a\"b\\c\n"
	var b strings.Builder
	if err := WriteMetrics(&b, s); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# TYPE wice_peer_receive_bytes_total counter\n",
		`wice_signaling_connected{interface="wg0",backend="libp2p"} 1` + "\n",
		`wice_peer_state{interface="wg0",public_key="gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=",name="",state="idle"} 1` + "\n",
		`name="a\"b\\c\n",kind="relay"} 1` + "\n",
		`wice_peer_path_mtu_bytes{interface="wg0",public_key="TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=",name="a\"b\\c\n"} 1216` + "\n",
		`wice_peer_round_trip_seconds{interface="wg0",public_key="TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=",name="a\"b\\c\n"} 0.00125` + "\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("got\n%s\nwant %q in it", b.String(), want)
		}
	}
	if strings.Count(b.String(), "wice_peer_round_trip_seconds{") != 1 {
		t.Error("a peer without round trip time has a sample")
	}
}

// fakeDaemon answers what its fields say.
type fakeDaemon struct {
	Daemon // what it does not answer
	status *Status
	ping   func(context.Context, PingRequest) (PingReply, error)
	reload func() (Reloaded, error)
	downs  atomic.Int32
	saves  atomic.Int32
}

func (d *fakeDaemon) Status(context.Context) (*Status, error) {
	if d.status == nil {
		return nil, errors.New("the device is closed")
	}
	return d.status, nil
}
func (d *fakeDaemon) Down(context.Context) error               { d.downs.Add(1); return nil }
func (d *fakeDaemon) Save(context.Context) error               { d.saves.Add(1); return nil }
func (d *fakeDaemon) Reload(context.Context) (Reloaded, error) { return d.reload() }
func (d *fakeDaemon) Metrics(w io.Writer) error                { return WriteMetrics(w, d.status) }
func (d *fakeDaemon) Ping(ctx context.Context, r PingRequest) (PingReply, error) {
	return d.ping(ctx, r)
}

// serve starts a server for d and stops it with the test.
func serve(t *testing.T, d Daemon, path string) *Server {
	t.Helper()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(d, Options{})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

func dial(t *testing.T, path string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestClientAndServer(t *testing.T) {
	d := &fakeDaemon{status: testStatus()}
	d.ping = func(ctx context.Context, r PingRequest) (PingReply, error) {
		switch r.Peer {
		case "alice":
			return PingReply{PublicKey: "k", Name: "alice", Address: netip.MustParseAddr("10.0.0.2"), RoundTripMs: 2.5, Path: d.status.Peers[0].Path}, nil
		case "silent":
			<-ctx.Done()
			return PingReply{}, fmt.Errorf("ping silent: %w", ctx.Err())
		}
		return PingReply{}, fmt.Errorf("ping %q: %w", r.Peer, ErrNoSuchPeer)
	}
	path := testSocket(t)
	s := serve(t, d, path)
	c := dial(t, path)

	got, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if b, err := json.Marshal(got); err != nil || string(b) != goldenStatus {
		t.Errorf("status: got %s, %v", b, err)
	}
	reply, err := c.Ping(t.Context(), PingRequest{Peer: "alice"})
	if err != nil || reply.RoundTripMs != 2.5 || reply.Address.String() != "10.0.0.2" || reply.Path.Kind != PathRelay {
		t.Errorf("ping: got %+v, %v", reply, err)
	}
	if _, err := c.Ping(t.Context(), PingRequest{Peer: "bob"}); !errors.Is(err, ErrNoSuchPeer) || !strings.Contains(err.Error(), "bob") {
		t.Errorf("ping of nobody: got %v", err)
	}
	if _, err := c.Ping(t.Context(), PingRequest{Peer: "silent", TimeoutMs: 5}); !errors.Is(err, ErrNoReply) {
		t.Errorf("ping without reply: got %v", err)
	}
	var metrics bytes.Buffer
	if err := c.Metrics(t.Context(), &metrics); err != nil || !strings.Contains(metrics.String(), "wice_peer_restarts_total") {
		t.Errorf("metrics: got %s, %v", metrics.String(), err)
	}
	if err := c.Down(t.Context()); err != nil || d.downs.Load() != 1 {
		t.Errorf("down: got %v after %d calls", err, d.downs.Load())
	}
	d.status = nil
	if _, err := c.Status(t.Context()); err == nil || err.Error() != "the device is closed" {
		t.Errorf("status of a closed device: got %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := c.WaitStopped(t.Context()); err != nil {
		t.Errorf("wait: %v", err)
	}
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("status after close: got %v, want %v", err, ErrNotRunning)
	}
	if _, err := Dial(t.Context(), path); !errors.Is(err, ErrNotRunning) {
		t.Errorf("dial after close: got %v, want %v", err, ErrNotRunning)
	}
}

func TestReloadAndSave(t *testing.T) {
	want := Reloaded{Changed: []string{"peer bob: AllowedIPs"}, Pending: []string{"MTU"}, Warnings: []string{"wg0.conf:1: odd"}}
	d := &fakeDaemon{reload: func() (Reloaded, error) { return want, nil }}
	path := testSocket(t)
	serve(t, d, path)
	c := dial(t, path)
	if got, err := c.Reload(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	d.reload = func() (Reloaded, error) { return want, errors.New("wg0.conf:7: bad") }
	if got, err := c.Reload(t.Context()); err == nil || err.Error() != "wg0.conf:7: bad" || got.Changed != nil {
		t.Errorf("got %+v, %v, want the error", got, err)
	}
	if err := c.Save(t.Context()); err != nil || d.saves.Load() != 1 {
		t.Errorf("save: got %v after %d calls", err, d.saves.Load())
	}
}

func TestWaitStoppedGivesUp(t *testing.T) {
	path := testSocket(t)
	serve(t, &fakeDaemon{}, path)
	c := dial(t, path)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := c.WaitStopped(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestGarbageDoesNoHarm(t *testing.T) {
	path := testSocket(t)
	serve(t, &fakeDaemon{status: testStatus(), ping: func(context.Context, PingRequest) (PingReply, error) { return PingReply{}, nil }}, path)
	garbage := make([]byte, 1<<20)
	rand.Read(garbage)
	post := "POST /v1/ping HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n"
	for _, head := range []string{"", "GET /v1/status HTTP/1.1\r\nHost: x\r\nX: ", post, post + `{"peer":"`, "POST /v1/ping HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"} {
		conn, err := DialSocket(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, head)
		conn.Write(garbage) // the server may hang up before the end
		conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		answer, err := io.ReadAll(io.LimitReader(conn, 1<<20))
		if len(answer) > 64<<10 || bytes.Contains(answer, []byte("HTTP/1.1 200")) {
			t.Errorf("after %q: got %d bytes, %v: %.100s", head, len(answer), err, answer)
		}
		conn.Close()
	}
	if st, err := dial(t, path).Status(t.Context()); err != nil || st.Interface != "wg0" {
		t.Errorf("got %v, %v", st, err)
	}
}

func TestServerOfAnotherKind(t *testing.T) {
	path := testSocket(t)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		io.WriteString(conn, "errno=71\n\n")
		conn.Close()
	}()
	if _, err := dial(t, path).Status(t.Context()); err == nil {
		t.Error("want an error")
	}
	l.Close()
	<-done
}
