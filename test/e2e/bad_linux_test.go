package e2e

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/wice-go/wice-go/test/natlab"
)

func fields(s string) []string { return strings.Fields(s) }

// Bad input gives a message that says what is wrong and where, the right exit code, and leaves nothing behind.
func TestBadInput(t *testing.T) {
	w := newWorld(t, natlab.Config{LANOnly: true})
	n := w.node(w.lab.A[0])
	other := w.node(w.lab.A[0])
	other.name = "other"
	n.peers = []peer{{name: "other", key: other.key.Public(), allowed: []string{"10.99.0.2/32"}}}
	good := n.config()
	before := n.snapshot()
	const twist = "AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" // u = 2 is not on the curve

	tests := []struct {
		name, config string
		code         int
		want         []string // in the message
	}{
		{"unknown key", good + "Colour = blue\n", 1, []string{n.file, "Colour", ":9"}},
		{"unknown wice key", strings.Replace(good, "\n[Peer]", "#!wice Signalling = libp2p\n\n[Peer]", 1), 1, []string{n.file, "Signalling", "Signaling"}},
		{"bad CIDR", strings.Replace(good, "10.99.0.2/32", "10.99.0.2/33", 1), 1, []string{n.file, "10.99.0.2/33"}},
		{"bad address", strings.Replace(good, "10.99.0.1/24", "10.99.0.300/24", 1), 1, []string{n.file, "10.99.0.300"}},
		{"duplicate peer", good + "\n[Peer]\nPublicKey = " + other.key.Public().String() + "\n", 1, []string{n.file, "PublicKey"}},
		{"key on the twist", good + "\n[Peer]\nPublicKey = " + twist + "\n", 1, []string{n.file, "PublicKey"}},
		{"no private key", strings.Replace(good, "PrivateKey", "#", 1), 1, []string{n.file, "PrivateKey"}},
		{"unknown backend", strings.Replace(good, "\n[Peer]", "#!wice Signaling = pigeons\n\n[Peer]", 1), 1, []string{"pigeons", "libp2p"}},
		{"failing PostUp", strings.Replace(good, "\n[Peer]", "PostUp = echo no luck; exit 7\n\n[Peer]", 1), 1, []string{"PostUp", "no luck"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(n.file, []byte(tt.config), 0o600); err != nil {
				t.Fatal(err)
			}
			r := n.run(wiceGo(), "up", n.file)
			expect(t, r, tt.code, tt.want...)
			if strings.Contains(r.stderr+r.stdout, n.key.Base64()) {
				t.Errorf("the message has the private key: %v", r)
			}
			n.asBefore(before, cleanLimit)
		})
	}

	t.Run("usage", func(t *testing.T) {
		expect(t, n.run(wiceGo(), "up"), 2, "up --help")
		expect(t, n.run(wiceGo(), "up", "a/b"), 2, "a/b")
		expect(t, n.run(wiceGo(), "up", n.file, "--colour"), 2, "--colour")
		expect(t, n.run(wiceGo(), "up", n.file, "--tun", "cloud"), 2, "cloud", "netstack")
		expect(t, n.run(wiceGo(), "down", iface), 3, iface, "no daemon")
		expect(t, n.run(wiceGo(), "status", iface, "--json"), 3, iface)
		expect(t, n.run(wiceGo(), "show", iface), 3, iface)
		expect(t, n.run(wiceGo(), "ping", iface, "other"), 3, iface)
	})
	t.Run("missing file", func(t *testing.T) {
		expect(t, n.run(wiceGo(), "up", "/nowhere/"+iface+".conf"), 1, "/nowhere/"+iface+".conf")
		expect(t, n.run(wiceGo(), "up", iface), 1, "/etc/wireguard/"+iface+".conf")
	})
	t.Run("as nobody", func(t *testing.T) {
		needTool(t, "setpriv")
		file := nobodyFile(n, good, 0o600, 0)
		expect(t, asNobody(n, "up", file), 1, file, "permission denied")
		file = nobodyFile(n, good, 0o600, 65534)
		expect(t, asNobody(n, "up", file, "--tun", "kernel"), 1, "no permission", "netstack")
		removeNobody(n)
		n.asBefore(before, cleanLimit)
	})
	t.Run("port in use", func(t *testing.T) {
		var c net.PacketConn
		if err := n.host.Do(func() (err error) { c, err = net.ListenPacket("udp", ":51999"); return err }); err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		n.lines = []string{"ListenPort = 51999"}
		n.writeConfig()
		n.lines = nil
		expect(t, n.run(wiceGo(), "up", n.file), 1, "51999", "in use")
		n.asBefore(before, cleanLimit)
	})
	t.Run("world-readable", func(t *testing.T) {
		n.writeConfig()
		if err := os.Chmod(n.file, 0o644); err != nil {
			t.Fatal(err)
		}
		r := n.run(wiceGo(), "up", n.file)
		expect(t, r, 0, "warning", n.file, "chmod 600")
		// Another daemon of that name is refused, and the one that runs is not harmed.
		expect(t, n.run(wiceGo(), "up", n.file), 1, iface, "up already", "wice-go down "+iface)
		if len(n.daemons()) != 1 {
			t.Errorf("got daemons %v, want one", n.daemons())
		}
		n.down()
		n.asBefore(before, cleanLimit)
	})
	t.Run("interface of another program", func(t *testing.T) {
		n.writeConfig()
		if r := n.run("ip", "link", "add", iface, "type", "bridge"); r.code != 0 {
			t.Fatal(r)
		}
		expect(t, n.run(wiceGo(), "up", n.file), 1, iface, "exists")
		if r := n.run("ip", "link", "del", iface); r.code != 0 {
			t.Fatalf("the other program's interface is gone: %v", r)
		}
		n.asBefore(before, cleanLimit)
	})
}

// Without its rendezvous an interface waits, and says so.
func TestRendezvousUnreachable(t *testing.T) {
	w := newWorld(t, natlab.Config{A: natlab.Site{NAT: natlab.PortRestricted}, B: natlab.Site{NAT: natlab.PortRestricted}})
	r := w.rendezvous()
	r.kill()
	na, nb := w.node(w.lab.A[0]), w.node(w.lab.B[0])
	join(na, nb)
	na.writeConfig()
	answer := na.run(wiceGo(), "up", na.file, "--wait=1s")
	expect(t, answer, 4, nb.name, "signaling not connected")
	if answer.took > patience/2 {
		t.Errorf("--wait=1s took %v", answer.took)
	}
	p := na.peerUntil(nb, "waiting", reasonHas("signaling not connected"))
	t.Logf("status: %v", p)
	if !strings.Contains(p.Reason, "no offer from the peer yet") {
		t.Errorf("got reason %q, want what is missing too", p.Reason)
	}
	expect(t, na.run(wiceGo(), "status", iface, "--check"), 4)
	r.start()
	nb.up("--wait")
	expect(t, na.run(wiceGo(), "status", iface, "--check"), 0)
	na.firstPing(nb.addr)
	nb.down()
	expect(t, na.run(wiceGo(), "ping", iface, nb.name, "-c", "1", "--timeout", "300ms"), 1, "no reply")
}

// A peer that never comes is named as the cause.
func TestNoPeer(t *testing.T) {
	w := newWorld(t, natlab.Config{A: natlab.Site{NAT: natlab.PortRestricted}})
	w.rendezvous()
	na, nb := w.node(w.lab.A[0]), w.node(w.lab.B[0])
	join(na, nb)
	na.up()
	p := na.peerUntil(nb, "missing", reasonHas("no offer from the peer yet"))
	t.Logf("status: %v", p)
	if p.State != "connecting" {
		t.Errorf("got %v, want connecting", p)
	}
}

// expect checks a command's exit code and that its message has these words.
func expect(t *testing.T, r result, code int, words ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("got %v\nwant exit code %d", r, code)
	}
	for _, word := range words {
		if !strings.Contains(r.stderr, word) {
			t.Errorf("got %v\nwant %q on stderr", r, word)
		}
	}
	if code != 0 && r.stdout != "" && !strings.Contains(strings.Join(r.args, " "), " ping ") && !strings.Contains(strings.Join(r.args, " "), " status ") {
		t.Errorf("got %v\nwant nothing on stdout", r)
	}
	if strings.Contains(r.stderr, "goroutine ") {
		t.Errorf("it crashed: %v", r)
	}
}
