package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wice-go/wice-go/test/natlab"
)

// wg is answered, and its settings are made, whatever other programs leave open or half written at WireGuard's socket, or write into it.
func TestUAPIBadClients(t *testing.T) {
	w := newWorld(t, natlab.Config{LANOnly: true})
	n := w.node(w.lab.A[0]).quiet()
	n.dropIn()
	daemon := n.daemons()
	path, err := n.host.Path("/var/run/wireguard/" + iface + ".sock")
	if err != nil {
		t.Fatal(err)
	}
	dial := func(text string) net.Conn {
		t.Helper()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		return c
	}

	dial("set=1\nlisten_port=4")
	dial("ge")
	port, open := 40000, 0
	for _, many := range []int{200, 256, 300} { // fewer than may be open, and more
		for ; open < many; open++ {
			dial("")
		}
		port++
		n.ok("wg", "set", iface, "listen-port", fmt.Sprint(port))
		if got := strings.TrimSpace(n.ok("wg", "show", iface, "listen-port").stdout); got != fmt.Sprint(port) {
			t.Errorf("with %d idle connections wg shows port %s, want %d", many, got, port)
		}
	}

	for _, endless := range []string{"", "set=1\n"} {
		c := dial(endless)
		if n, err := io.Copy(c, bytes.NewReader(make([]byte, 64<<20))); !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%d bytes without a line's end after %q: got %v, want the end of the connection", n, endless, err)
		}
	}
	for text, want := range map[string]string{
		"garbage\n": "", "\x00\x00\n": "", "get=2\n\n": "", "get=1\r\n\r\n": "", "get=1\n": "",
		"get=1\n\r\n": "errno=-22\n\n", "set=1\nnonsense=1\n\n": "errno=-22\n\n", "set=1\nprivate_key=12\n\n": "errno=-22\n\n", "set=1\n\x00\n\n": "errno=-71\n\n",
		"set=1\r\n\r\n": "", "set=1\nfwmark=7": "errno=0\n\n",
	} {
		c := dial(text)
		if err := c.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		// What was not read of a connection that ends resets it.
		if got, err := io.ReadAll(c); string(got) != want || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
	}
	if got := strings.TrimSpace(n.ok("wg", "show", iface, "fwmark").stdout); got != "0x7" {
		t.Errorf("got the mark %s, want that of the operation that ended with its connection", got)
	}
	if now := n.daemons(); len(daemon) != 1 || len(now) != 1 || now[0] != daemon[0] {
		t.Errorf("got daemons %v, then %v, want the same one", daemon, now)
	}
}
