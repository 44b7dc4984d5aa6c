package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wice-go/wice-go/test/natlab"
)

// Whatever ends a daemon, it is gone within two seconds, and nothing of it is left.
func TestNothingIsLeft(t *testing.T) {
	w := newWorld(t, natlab.Config{Family: natlab.DualStack, A: natlab.Site{NAT: natlab.Symmetric}, B: natlab.Site{NAT: natlab.Symmetric, NoIPv6: true}})
	w.rendezvous()
	na := w.node(w.lab.A[0], "Address = fd99::1/64", "DNS = 10.99.0.53", "MTU = 1380",
		"PostUp = ip route add 198.18.0.0/24 dev %i table 77", "PreDown = ip route del 198.18.0.0/24 dev %i table 77")
	nb := w.node(w.lab.B[0])
	join(na, nb)
	na.peers[0].allowed = append(na.peers[0].allowed, "fd99::2/128", "172.30.0.0/16", "fd98::/48")
	before := na.snapshot()
	nb.up()
	ways := []struct {
		name string
		end  func()
	}{
		{"down", func() { na.down() }},
		{"SIGTERM", func() { na.signal(syscall.SIGTERM) }},
		{"SIGINT", func() { na.signal(syscall.SIGINT) }},
		{"removal of the UAPI socket", func() {
			path, err := na.host.Path("/var/run/wireguard/" + iface + ".sock")
			if err == nil {
				err = os.Remove(path)
			}
			if err != nil {
				t.Fatal(err)
			}
			na.gone(patience)
		}},
		{"removal of the link", func() {
			if r := na.run("ip", "link", "del", iface); r.code != 0 {
				t.Fatal(r)
			}
			na.gone(patience)
		}},
	}
	for _, way := range ways {
		na.upAndPing(nb)
		na.peerUntil(nb, "through the relay", func(p peerStatus) bool { return p.Path != nil && p.Path.Kind == "relay" })
		if s := na.snapshot(); s["ip -j link"] == before["ip -j link"] || s["files in /run"] == before["files in /run"] {
			t.Fatalf("the snapshot does not see the daemon: %v", s)
		}
		start := time.Now()
		way.end()
		took := time.Since(start)
		t.Logf("%s: gone after %v", way.name, took.Round(ms))
		if took > cleanLimit {
			t.Errorf("%s: gone after %v, want at most %v", way.name, took, cleanLimit)
		}
		na.asBefore(before, cleanLimit)
	}
}

// A journal that is kept, as something could not be taken back, has the next daemon do that, and not run PostDown once more.
func TestPostDownOnce(t *testing.T) {
	w := newWorld(t, natlab.Config{LANOnly: true, A: natlab.Site{Hosts: 1}})
	n := w.node(w.lab.A[0], "DNS = 10.99.0.53", "PostDown = echo down >>/run/log/downs")
	tools := filepath.Join(filepath.Dir(n.file), "sbin")
	const script = "#!/bin/sh\n[ $1 = -a ] || ! rm /run/log/broken 2>/dev/null\n"
	for _, err := range []error{os.Mkdir(tools, 0o755), os.WriteFile(filepath.Join(tools, "resolvconf"), []byte(script), 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	n.env = append(n.env, "PATH="+tools+":"+os.Getenv("PATH"))
	before := n.snapshot()
	n.up()
	n.ok("touch", "/run/log/broken")
	n.down()
	n.gone(patience)
	if s := n.snapshot(); !strings.Contains(s["files in /run"], ".journal") {
		t.Fatalf("there is no journal of the DNS that is left: %v", s["files in /run"])
	}
	downs := func() string { return n.ok("cat", "/run/log/downs").stdout }
	if got := downs(); got != "down\n" {
		t.Errorf("got %q", got)
	}
	n.up()
	if got := downs(); got != "down\n" {
		t.Errorf("the next daemon has run PostDown again: %q", got)
	}
	n.signal(syscall.SIGKILL)
	n.up()
	if got := downs(); got != "down\ndown\n" {
		t.Errorf("nobody has run PostDown of a daemon that died: %q", got)
	}
	n.down()
	n.asBefore(before, cleanLimit)
}

// Full tunnels never route themselves: signaling and the path to the peer, also through TURN, stay outside; and a crash leaves nothing
// that the next run does not remove.
func TestFullTunnel(t *testing.T) {
	for _, kind := range []natlab.NAT{natlab.PortRestricted, natlab.Symmetric} {
		t.Run(kind.String(), func(t *testing.T) {
			w := newWorld(t, natlab.Config{Family: natlab.DualStack, A: natlab.Site{NAT: kind}, B: natlab.Site{NAT: kind, NoIPv6: true}})
			r := w.rendezvous()
			na, nb := w.node(w.lab.A[0], "Address = fd99::1/64"), w.node(w.lab.B[0])
			join(na, nb)
			na.peers[0].allowed = []string{"0.0.0.0/0", "::/0"}
			nb.peers[0].allowed = append(nb.peers[0].allowed, "fd99::1/128")
			before := na.snapshot()
			nb.up()
			took := na.upAndPing(nb)
			want := map[natlab.NAT]string{natlab.PortRestricted: "direct", natlab.Symmetric: "relay"}[kind]
			p := na.peerUntil(nb, "by a "+want+" path", func(p peerStatus) bool { return p.Path != nil && p.Path.Kind == want })
			t.Logf("first ping after %v; %v", took.Round(ms), p)
			for _, to := range []string{"5.1.0.10", "2a0e::10"} {
				if r := na.run("ip", "route", "get", to); !containsWord(r.stdout, iface) {
					t.Errorf("programs reach %s past the tunnel: %v", to, r)
				}
			}

			// The rendezvous comes back while everything else goes through the tunnel.
			r.kill()
			w.until(patience, "signaling is lost", func() (bool, string) { s := na.status(); return !s.Signaling[0].Connected, fmt.Sprint(s.Signaling) })
			r.start()
			w.until(patience, "signaling is back", func() (bool, string) { s := na.status(); return s.Signaling[0].Connected, fmt.Sprint(s.Signaling) })
			na.firstPing(nb.addr)
			p = na.connected(nb)
			sent := p.TxBytes
			stream := na.pingStream(nb.addr)
			stream.repliesAfter(20)
			stream.stop()
			if grown := na.connected(nb).TxBytes - sent; grown > 40_000 {
				t.Errorf("20 pings made %d bytes: the tunnel carries itself", grown)
			}

			na.signal(syscall.SIGKILL)
			na.up()
			na.firstPing(nb.addr)
			na.down()
			na.asBefore(before, cleanLimit)
		})
	}
}

func containsWord(text, word string) bool {
	return slices.Contains(fields(text), word)
}
