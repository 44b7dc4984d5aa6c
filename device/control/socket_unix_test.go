//go:build !windows

package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// testSocket returns a path that is short enough for a socket.
func testSocket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wice")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "wice-go", "wg0.sock")
}

func TestListenModes(t *testing.T) {
	path := testSocket(t)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("socket: got %v, %v", info.Mode(), err)
	}
	want := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		want = 0o755
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != want {
		t.Errorf("directory: got %v, %v, want %v", info.Mode(), err, want)
	}
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is there after close: %v", err)
	}
}

func TestListenTakesOverStaleSocket(t *testing.T) {
	path := testSocket(t)
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	first.(*listener).UnixListener.Close() // as in a crash: the file remains
	if _, err := DialSocket(t.Context(), path); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), path) {
		t.Errorf("dial: got %v, want %v", err, ErrNotRunning)
	}
	second, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	first.Close() // must not take the other's socket away
	conn, err := DialSocket(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, err := Listen(path); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v, want %v", err, ErrInUse)
	}
}

// TestListenRace has many daemons start over one stale socket: one wins.
func TestListenRace(t *testing.T) {
	path := testSocket(t)
	stale, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*listener).UnixListener.Close()
	type result struct {
		l   net.Listener
		err error
	}
	const n = 16
	results := make(chan result, n)
	for range n {
		go func() {
			l, err := Listen(path)
			results <- result{l, err}
		}()
	}
	winners := 0
	for range n {
		r := <-results
		switch {
		case r.err == nil:
			winners++
			defer r.l.Close()
		case !errors.Is(r.err, ErrInUse):
			t.Errorf("got %v, want %v", r.err, ErrInUse)
		}
	}
	if winners != 1 {
		t.Errorf("got %d daemons on one socket, want 1", winners)
	}
}

func TestListenRefuses(t *testing.T) {
	path := testSocket(t)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "something else than a socket") {
		t.Errorf("a file in the way: got %v", err)
	}
	if err := os.Chmod(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("a directory of everyone: got %v, want %v", err, ErrUntrusted)
	}
	if _, err := DialSocket(t.Context(), path); !errors.Is(err, ErrUntrusted) {
		t.Errorf("dial there: got %v, want %v", err, ErrUntrusted)
	}
	long := filepath.Join(filepath.Dir(path), strings.Repeat("x", 100), "wg0.sock")
	if _, err := Listen(long); err == nil || !strings.Contains(err.Error(), "RUNTIME_DIR to a shorter one") {
		t.Errorf("a long path: got %v", err)
	}
}

// What errors advise has an effect.
func TestRuntimeDirVariable(t *testing.T) {
	for _, tt := range []struct {
		paths Paths
		want  string
	}{
		{Paths{UID: 1000, Getenv: env()}, "XDG_RUNTIME_DIR"},
		{Paths{UID: 1000, Getenv: env("WICE_RUNTIME_DIR", "/tmp/x", "XDG_RUNTIME_DIR", "/run/x")}, "WICE_RUNTIME_DIR"},
		{Paths{Root: true, Getenv: env("XDG_RUNTIME_DIR", "/run/x")}, "WICE_RUNTIME_DIR"},
	} {
		before, after := tt.paths.RuntimeDir(), tt.paths
		after.Getenv = func(name string) string {
			if name == tt.paths.variable() {
				return "/tmp/elsewhere"
			}
			return tt.paths.Getenv(name)
		}
		if got := tt.paths.variable(); got != tt.want || after.RuntimeDir() != "/tmp/elsewhere" {
			t.Errorf("%s: got %s, and %s with it, want %s", before, got, after.RuntimeDir(), tt.want)
		}
	}
}

func TestUntrustedOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give a directory to another user")
	}
	path := testSocket(t)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Dir(path), 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "12345") || !strings.Contains(err.Error(), "set "+EnvRuntimeDir) {
		t.Errorf("got %v, want %v", err, ErrUntrusted)
	}
}

func TestPeerIsThisUser(t *testing.T) {
	path := testSocket(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: shortDir(t, path), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if !allowed(in) {
		t.Error("the same user is refused")
	}
}

func shortDir(t *testing.T, path string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSocketsAndFind(t *testing.T) {
	own, system := filepath.Dir(filepath.Dir(testSocket(t))), filepath.Dir(filepath.Dir(testSocket(t)))
	p := Paths{GOOS: hostOS, UID: 1000, Getenv: env("XDG_RUNTIME_DIR", own), SystemDir: system}
	if list, err := p.ControlSockets(); err != nil || len(list) != 0 {
		t.Errorf("no directories: got %v, %v", list, err)
	}
	for _, path := range []string{own + "/wice-go/b.sock", own + "/wice-go/a.sock", system + "/wice-go/c.sock", system + "/wice-go/a.sock"} {
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	if err := os.WriteFile(own+"/wice-go/file.sock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := p.ControlSockets()
	want := []Socket{{"a", own + "/wice-go/a.sock"}, {"b", own + "/wice-go/b.sock"}, {"c", system + "/wice-go/c.sock"}}
	if diff := cmp.Diff(want, list); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	for name, want := range map[string]string{"a": own, "c": system, "d": own} {
		if got := p.FindControl(name); got != want+"/wice-go/"+name+".sock" {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

// A socket that another process has opened is served, and removed at the end.
func TestInheritSocket(t *testing.T) {
	path := testSocket(t)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	first, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	first.SetUnlinkOnClose(false)
	file, err := first.File()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(file.Fd()))
	if err = errors.Join(err, file.Close(), first.Close()); err != nil {
		t.Fatal(err)
	}
	l, err := Inherit(path, fd)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	served, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	served.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if _, err := Inherit(path, 1<<20); err == nil {
		t.Error("a descriptor that is not open was taken")
	}
}

// TestListenAnswersAtOnce connects as soon as there is a socket: it never refuses, or else wg(8) would remove it.
func TestListenAnswersAtOnce(t *testing.T) {
	dir := filepath.Dir(testSocket(t))
	for i := range 300 {
		path := filepath.Join(dir, fmt.Sprintf("wg%d.sock", i))
		connected := make(chan error, 1)
		go func() {
			for {
				c, err := net.Dial("unix", path)
				if err == nil {
					c.Close()
				}
				if !errors.Is(err, fs.ErrNotExist) {
					connected <- err
					return
				}
			}
		}()
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Addr().String(); got != path {
			t.Errorf("got address %q, want %q", got, path)
		}
		err = <-connected
		if closeErr := l.Close(); err != nil || closeErr != nil {
			t.Fatalf("round %d: %v, %v", i, err, closeErr)
		}
	}
}
