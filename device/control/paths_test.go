package control

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for n := 0; n < len(pairs); n += 2 {
			if pairs[n] == name {
				return pairs[n+1]
			}
		}
		return ""
	}
}

// TestPaths is the table of the documentation.
func TestPaths(t *testing.T) {
	if filepath.Separator != '/' {
		t.Skip("needs slashes in paths")
	}
	run := t.TempDir()
	if err := os.Mkdir(filepath.Join(run, "1000"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name          string
		p             Paths
		uapi, control string
		configs       []string
	}{
		{"root", Paths{GOOS: "linux", Root: true, Getenv: env("XDG_RUNTIME_DIR", "/run/user/0", "XDG_CONFIG_HOME", "/root/.config")},
			"/var/run/wireguard/wg0.sock", "/var/run/wice-go/wg0.sock", []string{"/etc/wireguard/wg0.conf"}},
		{"user", Paths{GOOS: "linux", UID: 1000, Getenv: env("XDG_RUNTIME_DIR", "/run/x", "XDG_CONFIG_HOME", "/home/u/cfg")},
			"/run/x/wireguard/wg0.sock", "/run/x/wice-go/wg0.sock", []string{"/home/u/cfg/wireguard/wg0.conf", "/etc/wireguard/wg0.conf"}},
		{"user without variables", Paths{GOOS: "linux", UID: 1000, Getenv: env("HOME", "/home/u"), RunUser: run, TempDir: "/tmp"},
			run + "/1000/wireguard/wg0.sock", run + "/1000/wice-go/wg0.sock", []string{"/home/u/.config/wireguard/wg0.conf", "/etc/wireguard/wg0.conf"}},
		{"user without anything", Paths{GOOS: "linux", UID: 1001, Getenv: env(), RunUser: run, TempDir: "/tmp"},
			"/tmp/wice-go-1001/wireguard/wg0.sock", "/tmp/wice-go-1001/wice-go/wg0.sock", []string{"/etc/wireguard/wg0.conf"}},
		{"relative variable", Paths{GOOS: "linux", UID: 1001, Getenv: env("XDG_RUNTIME_DIR", "run"), RunUser: run, TempDir: "/tmp"},
			"/tmp/wice-go-1001/wireguard/wg0.sock", "/tmp/wice-go-1001/wice-go/wg0.sock", []string{"/etc/wireguard/wg0.conf"}},
		{"macOS", Paths{GOOS: "darwin", Root: true, Getenv: env()},
			"/var/run/wireguard/wg0.sock", "/var/run/wice-go/wg0.sock", []string{"/etc/wireguard/wg0.conf", "/usr/local/etc/wireguard/wg0.conf", "/opt/homebrew/etc/wireguard/wg0.conf"}},
		{"own world", Paths{GOOS: "linux", Root: true, Getenv: env(EnvRuntimeDir, "/tmp/w")},
			"/tmp/w/wireguard/wg0.sock", "/tmp/w/wice-go/wg0.sock", []string{"/etc/wireguard/wg0.conf"}},
		{"elevated on Windows", Paths{GOOS: "windows", Root: true, Getenv: env("ProgramData", `C:\ProgramData`)},
			`\\.\pipe\ProtectedPrefix\Administrators\WireGuard\wg0`, `\\.\pipe\ProtectedPrefix\Administrators\wice-go\wg0`, []string{`C:\ProgramData\wireguard\wg0.conf`}},
		{"Windows", Paths{GOOS: "windows", Getenv: env("APPDATA", `C:\Users\u\Roaming`)},
			`\\.\pipe\wice-go-uapi\wg0`, `\\.\pipe\wice-go\wg0`, []string{`C:\Users\u\Roaming\wireguard\wg0.conf`}},
	} {
		if got := c.p.UAPISocket("wg0"); got != c.uapi {
			t.Errorf("%s: UAPI socket: got %s, want %s", c.name, got, c.uapi)
		}
		if got := c.p.ControlSocket("wg0"); got != c.control {
			t.Errorf("%s: control socket: got %s, want %s", c.name, got, c.control)
		}
		if diff := cmp.Diff(c.configs, c.p.ConfigFiles("wg0")); diff != "" {
			t.Errorf("%s: configurations (-want +got)\n%s", c.name, diff)
		}
	}
	p := Paths{GOOS: "linux", Getenv: env()}.WithRuntimeDir("/tmp/w")
	if got, want := p.ControlSocket("wg0"), "/tmp/w/wice-go/wg0.sock"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := p.Journal("wg0"), "/tmp/w/wice-go/wg0.journal"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestInterfaceName(t *testing.T) {
	for _, c := range []struct{ arg, name, file string }{
		{"wg0", "wg0", ""},
		{"a_=+.-9", "a_=+.-9", ""},
		{"wg0.conf", "wg0", "wg0.conf"},
		{"./x/wg1.conf", "wg1", "./x/wg1.conf"},
		{`C:\x\wg1.conf`, "wg1", `C:\x\wg1.conf`},
		{"fifteen-letters", "fifteen-letters", ""},
	} {
		name, file, err := InterfaceName(c.arg)
		if name != c.name || file != c.file || err != nil {
			t.Errorf("%s: got %q, %q, %v", c.arg, name, file, err)
		}
	}
	for _, arg := range []string{"", ".", "..", "wg 0", "sixteen-letters-", "wg0/", "/etc/passwd", "../wg0", ".conf", "a/b c.conf", "wg\x00", "wgé"} {
		if name, file, err := InterfaceName(arg); err == nil {
			t.Errorf("%q: got %q, %q", arg, name, file)
		}
	}
}

func TestFindConfig(t *testing.T) {
	home := t.TempDir()
	p := Paths{GOOS: "linux", Getenv: env("XDG_CONFIG_HOME", home)}
	if _, err := p.FindConfig("wg-none"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), home) {
		t.Errorf("got %v", err)
	}
	file := filepath.Join(home, "wireguard", "wg-none.conf")
	if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o700), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if got, err := p.FindConfig("wg-none"); got != file || err != nil {
		t.Errorf("got %s, %v", got, err)
	}
}

// Sockets of this user and of root count, whatever directory the environment names.
func TestHasSocket(t *testing.T) {
	if filepath.Separator != '/' {
		t.Skip("sockets are no files here")
	}
	own, system := t.TempDir(), t.TempDir()
	for _, path := range []string{own + "/wice-go/wg1.sock", own + "/wireguard/wg2.sock", system + "/wireguard/wg3.sock", system + "/wice-go/wg4.sock", system + "/other/tun0.sock"} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []Paths{
		{GOOS: "linux", UID: 1000, Getenv: env("XDG_RUNTIME_DIR", own), SystemDir: system},
		{GOOS: "linux", UID: 1000, Getenv: env("WICE_RUNTIME_DIR", own), SystemDir: system},
		{GOOS: "linux", Root: true, Getenv: env("WICE_RUNTIME_DIR", own), SystemDir: system},
	} {
		for name, want := range map[string]bool{"wg1": true, "wg2": true, "wg3": true, "wg4": true, "tun0": false, "eth0": false} {
			if got := p.HasSocket(name); got != want {
				t.Errorf("%+v: %s: got %t, want %t", p, name, got, want)
			}
		}
	}
}
