package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/test/natlab"
	"github.com/wice-go/wice-go/test/program"
)

// Without root the whole tunnel lives in the process: it connects from behind a NAT, and forwards TCP and UDP both ways.
func TestRootless(t *testing.T) {
	needTool(t, "setpriv")
	_, na, nb := newPair(t, natlab.PortRestricted)
	na.lines = []string{
		fmt.Sprintf("#!wice Forward = tcp 127.0.0.1:8080 -> %s:80", nb.addr),
		fmt.Sprintf("#!wice Forward = udp 127.0.0.1:8053 -> %s:53", nb.addr),
		"#!wice Forward = tcp tunnel:22 -> 127.0.0.1:2222",
		"#!wice Forward = udp tunnel:23 -> 127.0.0.1:2323",
	}
	before := na.snapshot()
	nb.up()
	echo(nb, "tcp", netip.AddrPortFrom(nb.addr, 80))
	echo(nb, "udp", netip.AddrPortFrom(nb.addr, 53))
	echo(na, "tcp", netip.MustParseAddrPort("127.0.0.1:2222"))
	echo(na, "udp", netip.MustParseAddrPort("127.0.0.1:2323"))

	file := nobodyFile(na, na.config(), 0o600, 65534)
	r := asNobody(na, "up", file, "--wait")
	expect(t, r, 0, "no kernel TUN here")
	t.Logf("up --wait took %v", r.took.Round(ms))
	r = asNobody(na, "status", iface, "--json")
	expect(t, r, 0)
	s, err := program.DecodeStatus(r.stdout)
	if err != nil {
		t.Fatalf("%v: %v", err, r)
	}
	if p := peerOf(t, s, nb.key.Public()); s.Tun != "netstack" || p.State != "connected" || p.Path.Kind != "direct" {
		t.Errorf("got %s %v, want netstack, and connected directly", s.Tun, p)
	}
	r = asNobody(na, "ping", iface, nb.name, "-c", "3", "-i", "50ms")
	expect(t, r, 0)
	if n := strings.Count(r.stdout, "pong from "+nb.name); n != 3 {
		t.Errorf("got %d of 3 answers: %v", n, r)
	}
	expect(t, asNobody(na, "show", iface), 0)
	nb.firstPing(na.addr) // the stack answers too

	askEcho(na, "tcp", "127.0.0.1:8080")
	askEcho(na, "udp", "127.0.0.1:8053")
	askEcho(nb, "tcp", netip.AddrPortFrom(na.addr, 22).String())
	askEcho(nb, "udp", netip.AddrPortFrom(na.addr, 23).String())

	expect(t, asNobody(na, "down", iface), 0)
	na.gone(cleanLimit)
	removeNobody(na)
	na.asBefore(before, cleanLimit)
}

// wgInside has wg find a user's sockets where it looks, as docs/configuration.md says.
const wgInside = `mount --bind "$XDG_RUNTIME_DIR/wireguard" /mnt && mount -t tmpfs run /run && mkdir /run/wireguard && mount --move /mnt /run/wireguard && exec wg "$@"`

// wg itself sees and sets a rootless interface: in a namespace of the user, or by a link that root makes.
func TestRootlessWG(t *testing.T) {
	for _, tool := range []string{"setpriv", "unshare"} {
		needTool(t, tool)
	}
	w := newWorld(t, natlab.Config{LANOnly: true, A: natlab.Site{Hosts: 1}})
	n := w.node(w.lab.A[0])
	n.peers = []peer{{key: key.NewPrivate().Public(), allowed: []string{"10.99.0.9/32"}}}
	before := n.snapshot()
	expect(t, asNobody(n, "up", nobodyFile(n, n.config(), 0o600, 65534)), 0)
	if r := nobodyRuns(n, "wg", "show"); r.stdout != "" {
		t.Errorf("wg finds the socket by itself: %v", r)
	}
	inside := func(args ...string) result {
		t.Helper()
		r := nobodyRuns(n, "unshare", append([]string{"-rm", "sh", "-c", wgInside, "wg"}, args...)...)
		expect(t, r, 0)
		return r
	}
	inside("set", iface, "listen-port", "4444", "peer", n.peers[0].key.String(), "persistent-keepalive", "7")
	want := asNobody(n, "show", iface, "dump").stdout
	if got := inside("show", iface, "dump").stdout; got != want || !strings.Contains(got, "\t4444\t") || !strings.HasSuffix(got, "\t7\n") {
		t.Errorf("wg in a namespace: got %q, want %q", got, want)
	}

	n.ok("mkdir", "-p", "/var/run/wireguard")
	n.ok("ln", "-s", "/run/nobody/wireguard/"+iface+".sock", "/var/run/wireguard/")
	if got := n.ok("wg", "show", iface, "dump").stdout; got != want {
		t.Errorf("root's wg by a link: got %q, want %q", got, want)
	}
	if got := nobodyRuns(n, "wg", "show", iface, "dump").stdout; got != want {
		t.Errorf("the user's wg by a link: got %q, want %q", got, want)
	}
	n.ok("rm", "/var/run/wireguard/"+iface+".sock") // the link, which is not what the daemon watches
	expect(t, asNobody(n, "down", iface), 0)
	n.gone(cleanLimit)
	removeNobody(n)
	n.asBefore(before, cleanLimit)
}

// echo runs a server on the node's host that sends back what it gets.
func echo(n *node, network string, at netip.AddrPort) {
	n.w.t.Helper()
	var closer io.Closer
	err := n.host.Do(func() error {
		if network == "udp" {
			c, err := net.ListenPacket(network, at.String())
			if err != nil {
				return err
			}
			closer = c
			go func() {
				buf := make([]byte, 2048)
				for {
					k, from, err := c.ReadFrom(buf)
					if err != nil {
						return
					}
					_, _ = c.WriteTo(buf[:k], from)
				}
			}()
			return nil
		}
		l, err := net.Listen(network, at.String())
		if err != nil {
			return err
		}
		closer = l
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					_, _ = io.Copy(c, c)
				}()
			}
		}()
		return nil
	})
	if err != nil {
		n.w.t.Fatalf("%s: echo server on %s: %v", n.name, at, err)
	}
	n.w.t.Cleanup(func() { closer.Close() })
}

// askEcho has an echo server answer, over TCP with more than fits into any buffer on the way.
func askEcho(n *node, network, at string) {
	n.w.t.Helper()
	ask := func() error {
		var c net.Conn
		err := n.host.Do(func() (err error) {
			c, err = (&net.Dialer{Timeout: patience}).DialContext(context.Background(), network, at)
			return err
		})
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if network == "udp" {
			_ = c.SetDeadline(time.Now().Add(500 * ms))
			if _, err := io.WriteString(c, "hello"); err != nil {
				return err
			}
			buf := make([]byte, 64)
			k, err := c.Read(buf)
			if err == nil && string(buf[:k]) != "hello" {
				err = fmt.Errorf("got %q", buf[:k])
			}
			return err
		}
		const lines = 20_000
		go func() {
			out := bufio.NewWriter(c)
			for i := range lines {
				fmt.Fprintf(out, "this is line %d of what is sent\n", i)
			}
			_ = out.Flush()
		}()
		in := bufio.NewScanner(c)
		for i := range lines {
			if want := fmt.Sprintf("this is line %d of what is sent", i); !in.Scan() || in.Text() != want {
				return fmt.Errorf("got %q (%v), want %q", in.Text(), in.Err(), want)
			}
		}
		return nil
	}
	n.w.until(patience, fmt.Sprintf("%s has an answer over %s from %s", n.name, network, at), func() (bool, string) {
		err := ask()
		return err == nil, fmt.Sprint(err)
	})
}

// nobodyFile writes a configuration into the host's own /run, where other users reach it, and returns the host's name of it.
func nobodyFile(n *node, text string, mode os.FileMode, owner int) string {
	n.w.t.Helper()
	dir, err := n.host.Path("/run/nobody")
	if err != nil {
		n.w.t.Fatal(err)
	}
	file := filepath.Join(dir, iface+".conf")
	for _, err := range []error{os.MkdirAll(dir, 0o700), os.Chown(dir, 65534, 65534), os.WriteFile(file, []byte(text), mode), os.Chmod(file, mode), os.Chown(file, owner, owner)} {
		if err != nil {
			n.w.t.Fatal(err)
		}
	}
	return "/run/nobody/" + iface + ".conf"
}

func removeNobody(n *node) {
	n.w.t.Helper()
	dir, err := n.host.Path("/run/nobody")
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		n.w.t.Fatal(err)
	}
}

// asNobody runs wice-go as the user nobody, with a runtime directory of its own.
func asNobody(n *node, args ...string) result {
	n.w.t.Helper()
	return nobodyRuns(n, wiceGo(), args...)
}

// nobodyRuns runs a program as the user nobody.
func nobodyRuns(n *node, name string, args ...string) result {
	n.w.t.Helper()
	before := n.env
	defer func() { n.env = before }()
	n.env = append(n.env[:len(n.env):len(n.env)], nobodyEnv...)
	return n.run("setpriv", append(nobodyFlags, append([]string{name}, args...)...)...)
}

// nobodyFlags are those by which setpriv runs a program as the user nobody, and nobodyEnv is that user's environment.
var (
	nobodyFlags = []string{"--reuid=65534", "--regid=65534", "--clear-groups", "--"}
	nobodyEnv   = []string{"WICE_RUNTIME_DIR=", "XDG_RUNTIME_DIR=/run/nobody", "XDG_STATE_HOME=/run/nobody", "HOME=/run/nobody", "TMPDIR=/run/nobody"}
)
