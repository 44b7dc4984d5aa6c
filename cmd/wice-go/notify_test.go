package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// systemd stands in for it: the socket that daemons tell how they are. Its zero value is a script's key for its own.
type systemd struct{ socket *net.UnixConn }

// scriptNotified is "notified": the programs of the script tell a socket how they are, as services do; also that they are well.
func scriptNotified(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: notified")
	}
	path := filepath.Join(ts.Getenv("RUN"), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Value(systemd{}).(*systemd).socket = l
	ts.Setenv("NOTIFY_SOCKET", path)
	ts.Setenv("WATCHDOG_USEC", "50000")
}

// scriptTold is "told STATE...": the next things that the socket is told, but for the watchdog's unless that is the state.
func scriptTold(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(systemd{}).(*systemd)
	if neg || len(args) == 0 || s.socket == nil {
		ts.Fatalf("usage: told STATE..., after notified")
	}
	ts.Check(s.socket.SetReadDeadline(time.Now().Add(scriptPatience)))
	buf := make([]byte, 4096)
	for _, want := range args {
		for {
			n, err := s.socket.Read(buf)
			ts.Check(err)
			got, more, _ := strings.Cut(string(buf[:n]), "\n")
			if got == want {
				if reload := strings.HasPrefix(more, "MONOTONIC_USEC="); reload != (got == "RELOADING=1") {
					ts.Fatalf("got %q after %q", more, got)
				}
				break
			}
			if got != "WATCHDOG=1" {
				ts.Fatalf("got %q, want %q", got, want)
			}
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
