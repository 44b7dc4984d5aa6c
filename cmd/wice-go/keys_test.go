package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/proto/key"
)

// testApp is an app whose output is kept, in a world of its own.
type testApp struct {
	app
	out, errs bytes.Buffer
}

func newTestApp(t *testing.T, stdin string, environment ...string) *testApp {
	t.Helper()
	a := new(testApp)
	a.stdin, a.stdout, a.stderr = strings.NewReader(stdin), &a.out, &a.errs
	a.getenv = func(name string) string {
		for n := 0; n < len(environment); n += 2 {
			if environment[n] == name {
				return environment[n+1]
			}
		}
		return ""
	}
	dir, err := os.MkdirTemp("", "wice")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	a.paths = control.SystemPaths().WithRuntimeDir(dir)
	return a
}

func TestGenkeyAndPubkey(t *testing.T) {
	a := newTestApp(t, "")
	if code := a.run([]string{"genkey"}); code != exitOK || a.errs.Len() != 0 {
		t.Fatalf("genkey: exit %d, %s", code, a.errs.String())
	}
	private, err := key.ParsePrivate(strings.TrimSuffix(a.out.String(), "\n"))
	if err != nil || private[0]&7 != 0 || private[31]>>6 != 1 {
		t.Fatalf("genkey: got %q, %v", a.out.String(), err)
	}
	b := newTestApp(t, private.Base64()+"\n")
	if code := b.run([]string{"pubkey"}); code != exitOK || b.out.String() != private.Public().String()+"\n" {
		t.Errorf("pubkey: exit %d, got %q, want %v", code, b.out.String(), private.Public())
	}
	c := newTestApp(t, "")
	if code := c.run([]string{"genpsk"}); code != exitOK {
		t.Errorf("genpsk: exit %d", code)
	}
	if _, err := key.ParsePreshared(strings.TrimSpace(c.out.String())); err != nil || c.out.String() == a.out.String() {
		t.Errorf("genpsk: got %q, %v", c.out.String(), err)
	}
}

func TestPubkeyRefuses(t *testing.T) {
	valid := key.NewPrivate().Base64()
	for stdin, want := range map[string]string{
		"": "stdin is empty", " \n": "stdin is empty", valid[:43] + "\n": "not a WireGuard key", valid + " x": "not a WireGuard key",
		valid + "\n" + valid: "not a WireGuard key", strings.Repeat("A", maxKeyInput*2): "not a WireGuard key",
	} {
		a := newTestApp(t, stdin)
		if code := a.run([]string{"pubkey"}); code != exitFailure || a.out.Len() != 0 || !strings.Contains(a.errs.String(), want) {
			t.Errorf("%q: exit %d, %q, %q", stdin, code, a.out.String(), a.errs.String())
		}
		if strings.Contains(a.errs.String(), valid[:20]) {
			t.Errorf("the error gives the key away: %s", a.errs.String())
		}
	}
	a := newTestApp(t, "")
	if code := a.run([]string{"pubkey", valid}); code != exitUsage {
		t.Errorf("with an argument: exit %d, want %d", code, exitUsage)
	}
}

func TestGenkeyWarnsOfReadableFile(t *testing.T) {
	for mode, want := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o604: true} {
		f, err := os.OpenFile(filepath.Join(t.TempDir(), "key"), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Chmod(mode); err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil || info.Mode().Perm() != mode {
			t.Skipf("needs a file system with modes: %v, %v", info.Mode(), err)
		}
		a := newTestApp(t, "")
		a.stdout = f
		if code := a.run([]string{"genkey"}); code != exitOK || strings.Contains(a.errs.String(), "world accessible") != want {
			t.Errorf("mode %o: exit %d, %s", mode, code, a.errs.String())
		}
	}
}
