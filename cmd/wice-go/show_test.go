package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wice-go/wice-go/device/control"
)

const (
	hexPrivate = "c809f3e4c5fe9575c97adb5e2d8b7ce6532af9a85ddab614220241801ddf0669"
	hexPeer1   = "c53201039adba14be71f886da1d8dbe9eebd4232c4445b4d001e1999aa9f0e38"
	hexPeer2   = "4eb32f4a8f8d842563a4488c181bb2c42a637bf12363e2fb2ef5d4e5965d7d0d"
)

// uapiAnswer has every kind of line: a peer without anything, one with everything.
func uapiAnswer(handshake int64) string {
	return "private_key=" + hexPrivate + "\nlisten_port=51820\nfwmark=51966\n" +
		"public_key=" + hexPeer1 + "\npreshared_key=" + strings.Repeat("0", 64) + "\nprotocol_version=1\nlast_handshake_time_sec=0\nlast_handshake_time_nsec=0\n" +
		"tx_bytes=0\nrx_bytes=0\npersistent_keepalive_interval=0\n" +
		"public_key=" + hexPeer2 + "\npreshared_key=" + strings.Repeat("5a", 32) + "\nprotocol_version=1\nendpoint=[2001:db8::7]:51820\n" +
		fmt.Sprintf("last_handshake_time_sec=%d\nlast_handshake_time_nsec=5\n", handshake) +
		"tx_bytes=1023\nrx_bytes=1099511627777\npersistent_keepalive_interval=65535\n" +
		"allowed_ip=10.0.0.2/32\nallowed_ip=2001:db8::/32\nallowed_ip=::1.2.3.4/128\nallowed_ip=::ffff:1.2.3.4/128\nallowed_ip=::5/128\nallowed_ip=0.0.0.0/0\n" +
		"errno=0\n\n"
}

// serveUAPI answers every "get=1" on a socket with text.
func serveUAPI(t *testing.T, path, text string) {
	t.Helper()
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if line, err := bufio.NewReader(conn).ReadString('\n'); err == nil && line == "get=1\n" {
				io.WriteString(conn, text)
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

func TestShowGolden(t *testing.T) {
	a := newTestApp(t, "")
	now := time.Now().Unix()
	serveUAPI(t, a.paths.UAPISocket("wg0"), uapiAnswer(now-366*86400))
	if code := a.run([]string{"show", "wg0"}); code != exitOK {
		t.Fatalf("exit %d: %s", code, a.errs.String())
	}
	want := `interface: wg0
  public key: TK+cEPeg729JuGjAZFjjyRh6Vfs5F7MEpj87IjqCKiQ=
  private key: (hidden)
  listening port: 51820
  fwmark: 0xcafe

peer: TrMvSo+NhCVjpEiMGBuyxCpje/EjY+L7LvXU5ZZdfQ0=
  preshared key: (hidden)
  endpoint: [2001:db8::7]:51820
  allowed ips: 10.0.0.2/32, 2001:db8::/32, ::1.2.3.4/128, ::ffff:1.2.3.4/128, ::5/128, 0.0.0.0/0
  latest handshake: 1 year, 1 day ago
  transfer: 1.00 TiB received, 1023 B sent
  persistent keepalive: every 18 hours, 12 minutes, 15 seconds

peer: xTIBA5rboUvnH4htodjb6e69QjLERFtNAB4ZmaqfDjg=
  allowed ips: (none)
`
	got := strings.Replace(a.out.String(), "1 day, 1 second ago", "1 day ago", 1) // the clock may tick
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestShowAll(t *testing.T) {
	a := newTestApp(t, "")
	if code := a.run([]string{"show"}); code != exitOK || a.out.Len() != 0 {
		t.Errorf("without interfaces: exit %d, %q", code, a.out.String())
	}
	serveUAPI(t, a.paths.UAPISocket("wg1"), "listen_port=1\nerrno=0\n\n")
	serveUAPI(t, a.paths.UAPISocket("wg0"), "listen_port=2\nerrno=0\n\n")
	serveUAPI(t, a.paths.UAPISocket("broken"), "errno=-5\n\n")
	for args, want := range map[string]string{
		"show":                 "interface: wg0\n  listening port: 2\n\ninterface: wg1\n  listening port: 1\n",
		"show all listen-port": "wg0\t2\nwg1\t1\n",
		"show interfaces":      "broken wg0 wg1\n",
		"show wg0 dump":        "(none)\t(none)\t2\toff\n",
	} {
		a.out.Reset()
		if code := a.run(strings.Fields(args)); code != exitOK || a.out.String() != want {
			t.Errorf("%s: exit %d, got %q, want %q", args, code, a.out.String(), want)
		}
	}
	if !strings.Contains(a.errs.String(), "broken") {
		t.Errorf("nothing about the one that fails: %s", a.errs.String())
	}
}

func TestShowExitCodes(t *testing.T) {
	a := newTestApp(t, "")
	for args, want := range map[string]int{
		"show wg0": exitNotRunning, "show wg0 bogus": exitUsage, "show all bogus": exitUsage, "show interfaces dump": exitUsage,
		"show a b c": exitUsage, "show w/g": exitUsage,
	} {
		a.errs.Reset()
		if code := a.run(strings.Fields(args)); code != want || a.errs.Len() == 0 {
			t.Errorf("%s: exit %d, want %d: %s", args, code, want, a.errs.String())
		}
	}
	if code := a.run([]string{"show", "wg0"}); code != exitNotRunning || !strings.Contains(a.errs.String(), "wice-go up wg0") {
		t.Errorf("no hint: %s", a.errs.String())
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: staleSocket(t, a.paths.UAPISocket("old")), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	a.out.Reset()
	if code := a.run([]string{"show", "interfaces"}); code != exitOK || a.out.Len() != 0 {
		t.Errorf("a stale socket: exit %d, %q", code, a.out.String())
	}
}

func staleSocket(t *testing.T, path string) string {
	t.Helper()
	if err := os.MkdirAll(path[:strings.LastIndexByte(path, '/')], 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestParseUAPIErrors(t *testing.T) {
	for _, s := range []string{
		"", "errno=0\n", "errno=1\n\n", "\n", "private_key=xyz\nerrno=0\n\n", "listen_port=65536\nerrno=0\n\n", "nonsense\n\n",
		"public_key=" + hexPeer1 + "\nallowed_ip=10.0.0.0/33\nerrno=0\n\n", "public_key=" + hexPeer1 + "\nlast_handshake_time_sec=18446744073709551615\nerrno=0\n\n",
	} {
		if d, err := parseUAPI(strings.NewReader(s)); err == nil {
			t.Errorf("%q: got %v", s, d)
		} else if strings.Contains(err.Error(), "xyz") {
			t.Errorf("%q: the error shows the key: %v", s, err)
		}
	}
}

func FuzzParseUAPI(f *testing.F) {
	f.Add([]byte(uapiAnswer(1785000000)))
	f.Add([]byte("errno=0\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseUAPI(bytes.NewReader(b))
		if err != nil {
			return
		}
		d.pretty(true, true, time.Unix(1785000000, 0))
		for field := range strings.FieldsSeq(showFields) {
			text := d.field(field, true)
			if lines := strings.Count(text, "\n"); lines > len(d.peers)+1 {
				t.Errorf("%s has %d lines for %d peers", field, lines, len(d.peers))
			}
		}
	})
}
