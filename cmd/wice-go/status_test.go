package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wice-go/wice-go/device/control"
)

// statusDaemon is a daemon that has a status alone.
type statusDaemon struct {
	control.Daemon // what it does not answer

	mu     sync.Mutex
	status control.Status
	asked  chan struct{} // gets a value with each question, if there is room
}

func (d *statusDaemon) Status(context.Context) (*control.Status, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case d.asked <- struct{}{}:
	default:
	}
	s := d.status
	return &s, nil
}
func (d *statusDaemon) Down(context.Context) error { return errors.ErrUnsupported }
func (d *statusDaemon) Metrics(io.Writer) error    { return errors.ErrUnsupported }
func (d *statusDaemon) Ping(context.Context, control.PingRequest) (control.PingReply, error) {
	return control.PingReply{}, errors.ErrUnsupported
}

func serveStatus(t *testing.T, a *testApp, s control.Status) *statusDaemon {
	t.Helper()
	l, err := control.Listen(a.paths.ControlSocket(s.Interface))
	if err != nil {
		t.Fatal(err)
	}
	d := &statusDaemon{status: s, asked: make(chan struct{}, 1)}
	server := control.NewServer(d, control.Options{})
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return d
}

func statusOfFour(now time.Time) control.Status {
	prefix := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	end := func(kind, s string) control.EndStatus {
		return control.EndStatus{Type: kind, Address: netip.MustParseAddrPort(s)}
	}
	return control.Status{
		Interface: "wg0", PublicKey: "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=", ListenPort: 51820, Tun: "kernel",
		Signaling: []control.SignalingStatus{{Backend: "libp2p", Connected: true}, {Backend: "kubernetes", Detail: "no such namespace"}},
		Peers: []control.PeerStatus{
			{PublicKey: "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", Name: "alice", AllowedIPs: append(prefix("10.9.0.0/16"), prefix("10.0.0.2/32")...),
				State: control.StateConnected, Path: &control.PathStatus{Kind: control.PathDirect, Protocol: "udp", Local: end("host", "192.0.2.1:51820"), Remote: end("srflx", "198.51.100.7:40000"), MTU: 1420},
				RoundTripMs: 1.24, RxBytes: 2048, TxBytes: 5, LastHandshake: now.Add(-12 * time.Second)},
			{PublicKey: "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=", AllowedIPs: prefix("2001:db8::2/128"),
				State: control.StateConnected, Reason: "UDP blocked: relayed over TCP", RoundTripMs: 31.6, LastHandshake: now.Add(-90061 * time.Second),
				Path: &control.PathStatus{Kind: control.PathRelay, Protocol: "tcp", Local: end("relay", "203.0.113.9:50000"), Remote: end("host", "10.1.1.1:51820"), MTU: 1408, PathMTU: 1500}},
			{PublicKey: "gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=", Name: "böb", State: control.StateFailed, Reason: "no offer\nfrom the peer yet"},
		},
	}
}

func TestStatusTable(t *testing.T) {
	now := time.Unix(1785000000, 0)
	s := statusOfFour(now)
	want := `PEER      ADDRESS      STATE      PATH                              ROUND TRIP  TRANSFER               HANDSHAKE           WHY
alice     10.0.0.2     connected  direct 198.51.100.7:40000         1.2 ms      rx 2.00 KiB, tx 5 B    12 seconds ago
TrMvSoP4  2001:db8::2  connected  relay 203.0.113.9:50000 over tcp  32 ms       rx 0 B, tx 0 B         1 day, 1 hour ago   UDP blocked: relayed over TCP; path MTU 1500: packets over 1408 B clamped
böb       -            failed     -                                 -           rx 0 B, tx 0 B         never               no offer from the peer yet
`
	got := statusTable(&s, now, true)
	squeeze := func(s string) string { // the widths are checked below
		var lines []string
		for line := range strings.Lines(s) {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
		return strings.Join(lines, "\n")
	}
	if diff := cmp.Diff(squeeze(want), squeeze(got)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	for _, column := range [][]string{{"STATE", "connected", "connected", "failed"}, {"HANDSHAKE", "12 seconds", "1 day", "never"}} {
		at := strings.Index(lines[0], column[0])
		for n, line := range lines {
			if !strings.HasPrefix(string([]rune(line)[at:]), column[n]) {
				t.Errorf("line %d is not aligned: %q has no %q at %d", n, line, column[n], at)
			}
		}
	}
}

func TestStatusCommand(t *testing.T) {
	a := newTestApp(t, "")
	serveStatus(t, a, statusOfFour(time.Now()))
	if code := a.run([]string{"status", "wg0"}); code != exitOK {
		t.Fatalf("exit %d: %s", code, a.errs.String())
	}
	if got := strings.Count(a.out.String(), "\n"); got != 3 || !strings.HasPrefix(a.out.String(), "alice ") {
		t.Errorf("got %d lines, want one a peer:\n%s", got, a.out.String())
	}
	if !strings.Contains(a.errs.String(), "kubernetes is not connected: no such namespace") {
		t.Errorf("stderr: %s", a.errs.String())
	}
	a.out.Reset()
	if code := a.run([]string{"status", "--json"}); code != exitOK {
		t.Fatalf("exit %d: %s", code, a.errs.String())
	}
	var st control.Status
	if err := json.Unmarshal(a.out.Bytes(), &st); err != nil || st.Version != 1 || len(st.Peers) != 3 || strings.Count(a.out.String(), "\n") != 1 {
		t.Errorf("JSON: %v: %s", err, a.out.String())
	}
	a.errs.Reset()
	if code := a.run([]string{"status", "wg0", "--check"}); code != exitNotReady || !strings.Contains(a.errs.String(), "böb: failed: no offer") {
		t.Errorf("check: exit %d: %s", code, a.errs.String())
	}
}

func TestStatusCheckSucceeds(t *testing.T) {
	a := newTestApp(t, "")
	s := statusOfFour(time.Now())
	s.Peers = s.Peers[:2]
	serveStatus(t, a, s)
	if code := a.run([]string{"status", "--check"}); code != exitOK {
		t.Errorf("exit %d: %s", code, a.errs.String())
	}
}

func TestStatusExitCodes(t *testing.T) {
	a := newTestApp(t, "")
	for args, want := range map[string]int{
		"status wg0": exitNotRunning, "status": exitNotRunning, "status a b": exitUsage, "status w/g": exitUsage, "status --bogus": exitUsage,
		"status --watch --check": exitUsage, "status --watch --interval=0s": exitUsage,
	} {
		a.errs.Reset()
		if code := a.run(strings.Fields(args)); code != want || a.errs.Len() == 0 {
			t.Errorf("%s: exit %d, want %d: %s", args, code, want, a.errs.String())
		}
	}
}

func TestStatusOfAnotherWireGuard(t *testing.T) {
	a := newTestApp(t, "")
	serveUAPI(t, a.paths.UAPISocket("wg0"), "errno=0\n\n")
	if code := a.run([]string{"status", "wg0"}); code != exitNotRunning || !strings.Contains(a.errs.String(), "wice-go show wg0") {
		t.Errorf("exit %d: %s", code, a.errs.String())
	}
}

func TestStatusOfSeveral(t *testing.T) {
	a := newTestApp(t, "")
	for _, name := range []string{"wg1", "wg0"} {
		s := statusOfFour(time.Now())
		s.Interface = name
		serveStatus(t, a, s)
	}
	if code := a.run([]string{"status"}); code != exitOK {
		t.Fatalf("exit %d: %s", code, a.errs.String())
	}
	lines := strings.Split(a.out.String(), "\n")
	if len(lines) != 9 || !strings.HasPrefix(lines[0], "wg0: HIgo9x") || !strings.HasPrefix(lines[4], "wg1: ") {
		t.Errorf("got\n%s", a.out.String())
	}
}

func TestStatusWatch(t *testing.T) {
	a := newTestApp(t, "")
	d := serveStatus(t, a, statusOfFour(time.Now()))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.status(ctx, "wg0", statusFlags{json: true, watch: true, interval: time.Millisecond}) }()
	for range 3 {
		<-d.asked
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("interrupted: got %v, want nil", err)
	}
	if got := strings.Count(a.out.String(), "\n"); got < 2 {
		t.Errorf("got %d lines, want at least 2", got)
	}
}
