package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wice-go/wice-go/test/natlab"
	"github.com/wice-go/wice-go/test/program"
)

// installConfig writes the node's file to where wg-quick looks for it.
func (n *node) installConfig() (path string) {
	n.w.t.Helper()
	path, err := n.host.Path("/etc/wireguard/" + n.iface + ".conf")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = os.WriteFile(path, []byte(n.config()), 0o600)
	}
	if err != nil {
		n.w.t.Fatal(err)
	}
	return path
}

// ok runs a program, and ends the test unless it exits with 0.
func (n *node) ok(name string, args ...string) result {
	n.w.t.Helper()
	r := n.run(name, args...)
	if r.code != 0 {
		n.w.t.Fatalf("%s: %v", n.name, r)
	}
	return r
}

// dropIn makes a bare interface, with a log of its own, as the commands' output would else be that of the daemon.
func (n *node) dropIn() {
	n.w.t.Helper()
	n.ok(wiceGo(), n.iface)
}

// quiet has daemons of the node log to a file, not to the output of the command that has started them.
func (n *node) quiet() *node {
	n.env = append(n.env, "LOG_LEVEL=")
	return n
}

// A bare interface has nothing, and gets all of it from wg and ip; ICE connects a peer added by wg. The lines "#!wice" of the file count, and
// nothing else of it, whatever that is. A reload applies them.
func TestDropIn(t *testing.T) {
	w := newWorld(t, natlab.Config{A: natlab.Site{NAT: natlab.PortRestricted}, B: natlab.Site{NAT: natlab.PortRestricted}})
	w.rendezvous()
	na, nb := w.node(w.lab.A[0], "ListenPort = 40000").quiet(), w.node(w.lab.B[0])
	join(na, nb)
	nb.up()
	before := na.snapshot()
	path := na.installConfig()
	rewrite := func(old, new string) {
		t.Helper()
		text, err := os.ReadFile(path)
		if err == nil && !strings.Contains(string(text), old) {
			err = fmt.Errorf("there is no %q in %s", old, text)
		}
		if err == nil {
			err = os.WriteFile(path, []byte(strings.Replace(string(text), old, new, 1)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	rewrite("PrivateKey = "+na.key.Base64(), "Table = vpn\nElsewhere = yes")
	na.dropIn()
	if r := na.ok("wg", "showconf", iface); strings.Contains(r.stdout, "PrivateKey") || strings.Contains(r.stdout, "[Peer]") {
		t.Errorf("got keys or peers before wg has set them: %v", r)
	}
	if r := na.ok("ip", "-o", "addr", "show", "dev", iface); r.stdout != "" {
		t.Errorf("got addresses: %v", r)
	}
	if r := na.run(wiceGo(), iface); r.code != 1 || !strings.Contains(r.stderr, "exists already") {
		t.Errorf("a second daemon: %v", r)
	}
	secret := filepath.Join(filepath.Dir(na.file), "private")
	if err := os.WriteFile(secret, []byte(na.key.Base64()), 0o600); err != nil {
		t.Fatal(err)
	}
	na.ok("wg", "set", iface, "private-key", secret, "listen-port", "40001", "peer", nb.key.Public().String(), "allowed-ips", nb.addr.String()+"/32")
	na.ok("ip", "addr", "add", na.addr.String()+"/24", "dev", iface)
	na.ok("ip", "link", "set", iface, "up")
	na.firstPing(nb.addr)
	p := na.connected(nb)
	if p.Name != nb.name || p.Path == nil || p.Path.Kind != "direct" {
		t.Errorf("got %+v, want the name of the file and a direct path", p)
	}

	rewrite("Name = "+nb.name, "Name = other")
	if r := na.ok(wiceGo(), "reload", iface); r.stdout != "peer other: Name\n" {
		t.Errorf("reload: %v", r)
	}
	if got := na.connected(nb); got.Name != "other" || got.Restarts != p.Restarts || got.Path == nil || got.Path.Local != p.Path.Local {
		t.Errorf("got %+v after a reload, want the name of the file, and else %+v", got, p)
	}

	sockets := func() string { return na.ok("ss", "-Huanp").stdout }
	na.ok("ip", "link", "set", iface, "down")
	w.until(patience, "the sockets close with the link", func() (bool, string) { s := sockets(); return !strings.Contains(s, "wice-go"), s })
	na.ok("ip", "link", "set", iface, "up")
	na.firstPing(nb.addr)
	if s := sockets(); !strings.Contains(s, ":40001 ") {
		t.Errorf("WireGuard's port is another one after the link was down: %s", s)
	}

	na.signal(syscall.SIGKILL)
	na.dropIn() // beside the sockets of the dead one
	na.ok("ip", "link", "del", iface)
	na.dropIn() // while the other one may be ending
	socket, err := na.host.Path("/var/run/wireguard/" + iface + ".sock")
	if err == nil {
		err = os.Remove(socket)
	}
	if err != nil {
		t.Fatal(err)
	}
	na.gone(patience)
	na.asBefore(before, cleanLimit)
}

// The descriptors of wireguard-go are taken, in the foreground and in the background, and the link may be in another namespace.
func TestDropInDescriptors(t *testing.T) {
	w := newWorld(t, natlab.Config{LANOnly: true, A: natlab.Site{Hosts: 2}})
	for i, flags := range []int{unix.IFF_VNET_HDR, 0} {
		n := w.node(w.lab.A[i])
		var fd int
		err := n.host.Do(func() (err error) {
			if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
				return err
			}
			request, err := unix.NewIfreq("wg9")
			if err != nil {
				return err
			}
			request.SetUint16(uint16(unix.IFF_TUN | unix.IFF_NO_PI | flags))
			return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		})
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fd), "tun")
		n.iface = "wg9"
		cmd := n.host.Command(context.Background(), wiceGo(), "wg0")
		cmd.ExtraFiles = []*os.File{file}
		cmd.Env = append(n.environment(), "LOG_LEVEL=", "WG_TUN_FD=3")
		out := new(program.Buffer)
		cmd.Stdout, cmd.Stderr = out, out
		if i > 0 {
			cmd.Env = append(cmd.Env, "WG_PROCESS_FOREGROUND=1")
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		file.Close()
		w.until(patience, "the interface that the descriptor is of serves", func() (bool, string) { return n.run("wg", "show", "wg9").code == 0, out.String() })
		if got := strings.TrimSpace(n.ok("wg", "show", "interfaces").stdout); got != "wg9" {
			t.Errorf("got the interfaces %q", got)
		}
		n.ok("ip", "link", "del", "wg9")
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		n.gone(patience)
	}
}

// wgQuick runs wg-quick, with wice-go as the implementation that it falls back to.
func (n *node) wgQuick(args ...string) result {
	n.w.t.Helper()
	return n.ok("wg-quick", args...)
}

// newQuick is a world with a node that wg-quick brings up, and one with wice-go's own verb.
func newQuick(t *testing.T, nat natlab.NAT, lines ...string) (w *world, na, nb *node) {
	if _, err := os.Stat("/sys/module/wireguard"); err == nil {
		t.Skip("this kernel has a WireGuard of its own, in which case wg-quick takes no other")
	}
	w = newWorld(t, natlab.Config{Family: natlab.DualStack, A: natlab.Site{NAT: nat}, B: natlab.Site{NAT: nat, NoIPv6: true}})
	for _, tool := range []string{"wg-quick", "nft"} {
		needTool(t, tool)
	}
	w.rendezvous()
	na, nb = w.node(w.lab.A[0], lines...).quiet(), w.node(w.lab.B[0])
	na.env = append(na.env, "WG_QUICK_USERSPACE_IMPLEMENTATION="+wiceGo())
	join(na, nb)
	nb.up()
	return w, na, nb
}

// wg-quick brings the interface up and down, runs its commands, and saves.
func TestWgQuick(t *testing.T) {
	hooks := make([]string, 0, 4)
	for _, hook := range []string{"PreUp", "PostUp", "PreDown", "PostDown"} {
		hooks = append(hooks, fmt.Sprintf("%s = echo %s %%i >>/run/hooks", hook, hook))
	}
	w, na, nb := newQuick(t, natlab.PortRestricted, append(hooks, "MTU = 1380", "Address = fd99::1/64")...)
	before := na.snapshot()
	path := na.installConfig()
	if r := na.wgQuick("strip", iface); strings.Contains(r.stdout, "Address") || !strings.Contains(r.stdout, "[Peer]") {
		t.Errorf("strip: %v", r)
	}
	na.wgQuick("up", iface)
	na.firstPing(nb.addr)
	if p := na.connected(nb); p.Name != nb.name || p.Path.Kind != "direct" {
		t.Errorf("got %+v, want a direct path, and the peer's name", p)
	}
	other := w.node(w.lab.B[0]).key.Public().String()
	na.ok("wg", "set", iface, "peer", other, "allowed-ips", "10.97.0.0/24")
	na.wgQuick("save", iface)
	saved, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{other, "10.97.0.0/24", na.key.Base64(), "Address = 10.99.0.1/24", "MTU = 1380"} {
		if !strings.Contains(string(saved), want) {
			t.Errorf("the saved file lacks %s", want)
		}
	}
	na.wgQuick("down", iface)
	na.gone(patience)
	log, err := na.host.Path("/run/hooks")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(log); err != nil || string(got) != "PreUp wg0\nPostUp wg0\nPreDown wg0\nPostDown wg0\n" {
		t.Errorf("the commands that ran: %q, %v", got, err)
	}
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	na.asBefore(before, cleanLimit)
}

// A full tunnel of wg-quick never routes itself: its mark comes when the sockets of signaling, and of relays, are open already.
func TestWgQuickFullTunnel(t *testing.T) {
	for _, kind := range []natlab.NAT{natlab.PortRestricted, natlab.Symmetric} {
		t.Run(kind.String(), func(t *testing.T) {
			w, na, nb := newQuick(t, kind, "Address = fd99::1/64")
			na.peers[0].allowed = []string{"0.0.0.0/0", "::/0"}
			na.installConfig()
			na.wgQuick("up", iface)
			na.firstPing(nb.addr)
			want := map[natlab.NAT]string{natlab.PortRestricted: "direct", natlab.Symmetric: "relay"}[kind]
			na.peerUntil(nb, "by a "+want+" path", func(p peerStatus) bool { return p.State == "connected" && p.Path != nil && p.Path.Kind == want })
			w.until(patience, "signaling stays outside", func() (bool, string) { s := na.status(); return s.Signaling[0].Connected, fmt.Sprint(s.Signaling) })
			if r := na.run("ip", "route", "get", "5.1.0.10"); !containsWord(r.stdout, iface) {
				t.Errorf("programs reach the rendezvous past the tunnel: %v", r)
			}
			sent := na.connected(nb).TxBytes
			stream := na.pingStream(nb.addr)
			stream.repliesAfter(20)
			stream.stop()
			if grown := na.connected(nb).TxBytes - sent; grown > 40_000 {
				t.Errorf("20 pings made %d bytes: the tunnel carries itself", grown)
			}
			na.wgQuick("down", iface)
			na.gone(patience)
		})
	}
}
