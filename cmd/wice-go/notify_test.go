package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/wice-go/wice-go/device/control"
)

// systemd stands in for it: what daemons tell it of how they are, of each message the first line. Its zero value is a script's key for its own.
type systemd struct{ told chan string }

// scriptNotified is "notified": the programs of the script tell a socket how they are, as services do; also that they are well.
func scriptNotified(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: notified")
	}
	path := filepath.Join(ts.Getenv("RUN"), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	ts.Check(err)
	told := make(chan string, 10_000) // read as it comes, since few messages fill the socket, and then the programs wait
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(told)
		buf := make([]byte, 4096)
		for {
			n, err := l.Read(buf)
			if err != nil {
				return
			}
			first, more, _ := strings.Cut(string(buf[:n]), "\n")
			if reload := strings.HasPrefix(more, "MONOTONIC_USEC="); reload != (first == "RELOADING=1") {
				first += " with " + more
			}
			told <- first
		}
	})
	ts.Defer(func() { l.Close(); reader.Wait() })
	ts.Value(systemd{}).(*systemd).told = told
	ts.Setenv("NOTIFY_SOCKET", path)
	ts.Setenv("WATCHDOG_USEC", "50000")
}

// scriptTold is "told STATE...": the next things that the socket is told, but for the watchdog's and texts unless that is the state.
func scriptTold(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(systemd{}).(*systemd)
	if neg || len(args) == 0 || s.told == nil {
		ts.Fatalf("usage: told STATE..., after notified")
	}
	timeout := time.After(scriptPatience)
	for _, want := range args {
		last := "nothing"
		for last != want {
			select {
			case last = <-s.told:
			case <-timeout:
				ts.Fatalf("not within %v: %q; told last: %q", scriptPatience, want, last)
			}
			if last != want && last != "WATCHDOG=1" && !strings.HasPrefix(last, "STATUS=") {
				ts.Fatalf("got %q, want %q", last, want)
			}
		}
	}
}

func TestSummary(t *testing.T) {
	peer := func(state control.PeerState, kind control.PathKind) control.PeerStatus {
		return control.PeerStatus{State: state, Path: &control.PathStatus{Kind: kind}}
	}
	alone := control.PeerStatus{State: control.StateIdle}
	down := []control.SignalingStatus{{Backend: "libp2p", Connected: true}, {Backend: "kubernetes"}}
	for _, tt := range []struct {
		status control.Status
		want   string
	}{
		{control.Status{}, "no peers"},
		{control.Status{Signaling: down}, "no peers; signaling not connected: kubernetes"},
		{control.Status{Peers: []control.PeerStatus{peer(control.StateConnected, control.PathDirect)}}, "1 of 1 peers connected"},
		{control.Status{Signaling: down[:1], Peers: []control.PeerStatus{
			alone, peer(control.StatePlain, control.PathPlain), peer(control.StateConnected, control.PathRelay), peer(control.StateConnecting, control.PathRelay),
			peer(control.StateConnected, control.PathDirect), {State: control.StateFailed}, alone,
		}}, "2 of 7 peers connected (1 relayed), 1 connecting, 1 failed, 2 idle, 1 plain"},
	} {
		if got := summary(&tt.status); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

// The unit of docs is one that systemd takes whole, and keeps the daemon from what it does not need.
func TestSystemdUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("this machine lacks the program systemd-analyze: install the package systemd")
	}
	unit, err := os.ReadFile("../../docs/wice-go@.service")
	if err != nil {
		t.Fatal(err)
	}
	const program = "/usr/local/bin/wice-go"
	if n := strings.Count(string(unit), "="+program+" "); n != 2 {
		t.Fatalf("the unit names %s %d times, want 2", program, n)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "wice-go@wg0.service")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(unit), program, exe)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"verify", "--man=no", "--recursive-errors=no", file},
		{"security", "--offline=yes", "--no-pager", "--threshold=50", file}, // in tenths of its points for exposure
	} {
		if out, err := exec.Command(analyze, args...).CombinedOutput(); err != nil || args[0] == "verify" && len(out) > 0 {
			t.Errorf("systemd-analyze %v: %v\n%s", args, err, out)
		}
	}
}
