package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/test/natlab"
	"github.com/wice-go/wice-go/test/program"
)

// startPlain runs wireguard-go on the node's host, and returns when it serves.
func (n *node) startPlain() {
	n.w.t.Helper()
	binary, err := wireguardGo()
	if err != nil {
		n.w.t.Fatal(err)
	}
	cmd := n.host.Command(context.Background(), binary, "-f", iface)
	cmd.Env = append(cmd.Environ(), "LOG_LEVEL=verbose")
	out := new(program.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		n.w.t.Fatal(err)
	}
	n.w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	// Not to be asked of wg: it removes a socket that refuses a connection, and so does one between bind and listen.
	n.w.until(patience, "wireguard-go serves", func() (bool, string) {
		return strings.Contains(out.String(), "UAPI listener started"), out.String()
	})
}

// plainPeer runs wireguard-go on the node's host, set up by wg and ip alone, with the other node as its peer.
func plainPeer(n, other *node, endpoint netip.AddrPort) {
	n.w.t.Helper()
	secret := filepath.Join(filepath.Dir(n.file), "private")
	if err := os.WriteFile(secret, []byte(n.key.Base64()), 0o600); err != nil {
		n.w.t.Fatal(err)
	}
	n.startPlain()
	for _, args := range [][]string{
		{"wg", "set", iface, "private-key", secret, "listen-port", "40000",
			"peer", other.key.Public().String(), "endpoint", endpoint.String(), "allowed-ips", other.addr.String() + "/32", "persistent-keepalive", "1"},
		{"ip", "addr", "add", n.addr.String() + "/24", "dev", iface},
		{"ip", "link", "set", iface, "up"},
	} {
		if r := n.run(args[0], args[1:]...); r.code != 0 {
			n.w.t.Fatalf("%s: %v", n.name, r)
		}
	}
}

// A plain WireGuard peer shares the port with peers that use ICE, and roams.
func TestPlainPeer(t *testing.T) {
	w := newWorld(t, natlab.Config{B: natlab.Site{NAT: natlab.PortRestricted, Hosts: 2}})
	w.rendezvous()
	na, nb := w.node(w.lab.A[0], "ListenPort = 51820"), w.node(w.lab.B[0])
	plain := w.node(w.lab.B[1])
	join(na, nb, plain)
	nb.peers = nb.peers[:1]
	na.up()
	nb.up()
	plainPeer(plain, na, netip.AddrPortFrom(na.host.Addr4(), 51820))
	plain.firstPing(na.addr)
	na.firstPing(plain.addr)
	na.firstPing(nb.addr)
	na.connected(nb)
	p := na.peerUntil(plain, "as plain", func(p peerStatus) bool { return p.State == "plain" })
	if p.Path == nil || p.Path.Kind != "plain" || p.Path.Protocol != "udp" || p.RxBytes == 0 || p.LastHandshake.IsZero() {
		t.Errorf("got %v, want a plain path with traffic", p)
	}

	t.Run("roaming", func(t *testing.T) {
		stream := na.pingStream(plain.addr)
		ice := na.pingStream(nb.addr)
		before := p.Path.Remote.Address
		plain.host.Renumber()
		if r := plain.run("wg", "set", iface, "listen-port", "40001"); r.code != 0 {
			t.Fatal(r)
		}
		stream.repliesAfter(10)
		lost, outage := stream.stop()
		iceLost, _ := ice.stop()
		t.Logf("roaming: %d pings lost, longest outage %v", lost, outage.Round(ms))
		if iceLost > 0 {
			t.Errorf("the ICE peer lost %d pings", iceLost)
		}
		p := na.peerUntil(plain, "elsewhere", func(p peerStatus) bool { return p.State == "plain" && p.Path != nil && p.Path.Remote.Address != before })
		t.Logf("from %s to %s", before, p.Path.Remote.Address)
	})
}

// With an Endpoint in its file wice-go speaks first, and another Endpoint set by wg counts at once.
func TestEndpointOfPlainPeer(t *testing.T) {
	w := newWorld(t, natlab.Config{A: natlab.Site{NAT: natlab.PortRestricted}})
	na, plain := w.node(w.lab.A[0]), w.node(w.lab.B[0])
	join(na, plain)
	na.peers[0].lines = []string{fmt.Sprintf("Endpoint = %s:40000", plain.host.Addr4())}
	plainPeer(plain, na, netip.MustParseAddrPort("5.1.99.99:9")) // nobody: it has to be spoken to
	na.up()
	t.Logf("first ping after %v", na.firstPing(plain.addr).Round(ms))
	if r := plain.run("wg", "set", iface, "listen-port", "40001"); r.code != 0 {
		t.Fatal(r)
	}
	if r := na.run("wg", "set", iface, "peer", plain.key.Public().String(), "endpoint", plain.host.Addr4().String()+":40001"); r.code != 0 {
		t.Fatal(r)
	}
	na.firstPing(plain.addr)
}

var relativeTime = regexp.MustCompile(`(?m)^(  latest handshake|  transfer): .*$`)

// wg and wice-go show the same, also for a peer that wg added while the interface is up, and that takes part like any other.
func TestShowAgrees(t *testing.T) {
	w := newWorld(t, natlab.Config{LANOnly: true, A: natlab.Site{Hosts: 2}})
	na, nb := w.node(w.lab.A[0], "FwMark = 0x1234"), w.node(w.lab.A[1])
	psk := key.NewPreshared()
	join(na, nb)
	na.peers[0].lines = []string{"PresharedKey = " + psk.Base64(), "PersistentKeepalive = 7"}
	nb.peers[0].lines = na.peers[0].lines
	peers := nb.peers
	nb.peers = nil
	na.up()
	nb.up()
	secret := filepath.Join(filepath.Dir(nb.file), "psk")
	if err := os.WriteFile(secret, []byte(psk.Base64()), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := nb.run("wg", "set", iface, "peer", peers[0].key.String(), "preshared-key", secret, "allowed-ips", peers[0].allowed[0]); r.code != 0 {
		t.Fatal(r)
	}
	na.firstPing(nb.addr)
	nb.connected(na)
	for _, n := range w.nodes {
		n.env = append(n.env, "WG_COLOR_MODE=never")
		for _, field := range []string{"", "public-key", "private-key", "listen-port", "fwmark", "peers", "preshared-keys", "endpoints", "allowed-ips", "latest-handshakes", "transfer", "persistent-keepalive", "dump"} {
			args := []string{"show", iface}
			if field != "" {
				args = append(args, field)
			}
			w.until(patience, n.name+": wg and wice-go agree about "+field, func() (bool, string) {
				ours, theirs := n.must(args...).stdout, n.run("wg", args...).stdout
				if field == "" { // the ages of things differ from one moment to the next
					ours, theirs = relativeTime.ReplaceAllString(ours, "$1"), relativeTime.ReplaceAllString(theirs, "$1")
				}
				return ours == theirs && ours != "", fmt.Sprintf("wice-go:\n%s\nwg:\n%s", ours, theirs)
			})
		}
	}
	s := na.status()
	if got := s.PublicKey; got != na.key.Public().String() || s.Interface != iface || s.Tun != "kernel" {
		t.Errorf("got %+v", s)
	}
	if port := strings.TrimSpace(na.run("wg", "show", iface, "listen-port").stdout); port != fmt.Sprint(s.ListenPort) {
		t.Errorf("status has the port %d, wg %s", s.ListenPort, port)
	}
}
