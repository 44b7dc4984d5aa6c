package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/test/natlab"
)

// A reload under load loses no packet of the peer that stays as it is, whatever becomes of another one.
func TestReloadLosesNothing(t *testing.T) {
	needTool(t, "iperf3")
	w := newWorld(t, natlab.Config{A: natlab.Site{NAT: natlab.PortRestricted}, B: natlab.Site{NAT: natlab.PortRestricted, Hosts: 2}})
	w.rendezvous()
	na, nb, nc := w.node(w.lab.A[0]), w.node(w.lab.B[0]), w.node(w.lab.B[1])
	join(na, nb, nc)
	na.up()
	nb.up()
	nc.up()
	direct := func(p peerStatus) bool { return p.State == "connected" && p.Path != nil && p.Path.Kind == "direct" }
	before := na.peerUntil(nb, "by a direct path", direct)
	na.peerUntil(nc, "by a direct path", direct)
	na.firstPing(nb.addr)
	na.firstPing(nc.addr)
	routes := na.run("ip", "route", "show", "dev", iface).stdout

	reload := func(want ...string) {
		t.Helper()
		na.writeConfig()
		if got := strings.TrimSpace(na.must("reload", iface).stdout); got != strings.Join(want, "\n") {
			t.Errorf("reload printed %q, want %q", got, want)
		}
	}
	named := func(what string) string { return "peer " + nc.name + what }
	steps := func() {
		t.Helper()
		reload()
		changed := &na.peers[1]
		changed.allowed = append(changed.allowed, "10.77.0.0/16")
		changed.lines = []string{"PersistentKeepalive = 5", "PresharedKey = " + key.NewPrivate().Base64()}
		reload(named(": PresharedKey, AllowedIPs, PersistentKeepalive"))
		if r := na.run("ip", "route", "get", "10.77.1.1"); !strings.Contains(r.stdout, "dev "+iface) {
			t.Errorf("no route to a new allowed IP: %v", r)
		}
		changed.allowed, changed.lines = changed.allowed[:1], []string{"#!wice ICE = off"}
		reload(named(": PresharedKey, AllowedIPs, PersistentKeepalive, ICE"))
		if r := na.run("ip", "route", "show", "dev", iface); r.stdout != routes {
			t.Errorf("got routes %s, want %s", r.stdout, routes)
		}
		peers := na.peers
		na.peers = peers[:1]
		reload(named(" removed"))
		na.peers = peers
		changed.lines = nil
		reload(named(" added"))
	}
	losesNothing(na, nb, steps, "6")
	if after := na.connected(nb); after.Restarts != before.Restarts || after.Path.Remote != before.Path.Remote {
		t.Errorf("the reloads changed the session of the peer that stays: before %v, after %v", before, after)
	}
	na.peerUntil(nc, "by a direct path", direct) // it comes back
	na.firstPing(nc.addr)
}

// A full tunnel that a reload makes, and unmakes, has its rules and its mark.
func TestReloadFullTunnel(t *testing.T) {
	w, na, nb := newPair(t, natlab.PortRestricted)
	before := na.snapshot()
	na.up()
	nb.up()
	na.firstPing(nb.addr)
	// The connections over TCP are those to the rendezvous, made without a mark. What there is has to outlive the change, which with another
	// port takes offers.
	signaling := func() (lines []string) {
		for line := range strings.Lines(na.ok("ss", "-Hnt", "state", "established").stdout) {
			if fields := strings.Fields(line); len(fields) > 3 {
				lines = append(lines, fields[1]+" unsent: "+fields[2]+" "+fields[3])
			}
		}
		return lines
	}
	var connection []string
	w.until(patience, "one connection to the rendezvous, all of it sent", func() (bool, string) {
		connection = signaling()
		return len(connection) == 1 && strings.HasPrefix(connection[0], "0 "), fmt.Sprint(connection)
	})
	na.peers[0].allowed = append(na.peers[0].allowed, "0.0.0.0/0")
	na.lines = append(na.lines, "ListenPort = 5555")
	na.writeConfig()
	na.must("reload", iface)
	if r := na.run("wg", "show", iface, "listen-port"); strings.TrimSpace(r.stdout) != "5555" {
		t.Errorf("the port: %v", r)
	}
	w.until(patience, "the default route leads into the tunnel", func() (bool, string) {
		r := na.run("ip", "route", "get", "5.1.200.1")
		return strings.Contains(r.stdout, "dev "+iface), r.String()
	})
	if r := na.run("wg", "show", iface, "fwmark"); strings.TrimSpace(r.stdout) == "off" {
		t.Errorf("the sockets have no mark: %v", r)
	}
	na.peerUntil(nb, "connected after another port", func(p peerStatus) bool { return p.State == "connected" && p.Restarts > 0 })
	na.firstPing(nb.addr)
	w.until(patience, "the connection to the rendezvous is as before", func() (bool, string) {
		now := signaling()
		return slices.Equal(now, connection), fmt.Sprintf("%q, before %q", now, connection)
	})
	mark := strings.TrimSpace(na.ok("wg", "show", iface, "fwmark").stdout)
	na.ok("sh", "-c", wiceGo()+" strip "+na.file+" | wg syncconf "+iface+" /dev/stdin") // which sets no mark
	if r := na.run("wg", "show", iface, "fwmark"); strings.TrimSpace(r.stdout) != "off" {
		t.Errorf("the mark after wg syncconf: %v", r)
	}
	if want := "wg set " + iface + " fwmark " + mark; !strings.Contains(na.ok("cat", "/run/log/"+iface+".log").stdout, want) {
		t.Errorf("nothing in the log warns of the mark: want %q", want)
	}
	na.must("reload", iface)
	if r := na.run("wg", "show", iface, "fwmark"); strings.TrimSpace(r.stdout) != mark {
		t.Errorf("got %v, want the mark %s of the rules again", r, mark)
	}
	na.firstPing(nb.addr)
	na.lines = append(na.lines, "FwMark = 0x77")
	na.writeConfig()
	if r := na.must("reload", iface); !strings.Contains(r.stderr, "FwMark takes effect only after") {
		t.Errorf("the mark of a full tunnel: %v", r)
	}
	na.peers[0].allowed = na.peers[0].allowed[:1]
	na.writeConfig()
	na.must("reload", iface) // the default route goes
	na.must("reload", iface) // then the mark can be another one
	if r := na.run("wg", "show", iface, "fwmark"); strings.TrimSpace(r.stdout) != "0x77" {
		t.Errorf("the mark after the full tunnel: %v", r)
	}
	na.firstPing(nb.addr)
	na.down()
	na.asBefore(before, cleanLimit)
}

// save and strip agree with wg.
func TestSaveAndStrip(t *testing.T) {
	_, na, nb := newPair(t, natlab.PortRestricted)
	na.peers[0].lines = []string{"# whom I know"}
	na.up()
	added := key.NewPrivate().Public().String()
	if r := na.run("wg", "set", iface, "peer", added, "allowed-ips", "10.99.1.1/32"); r.code != 0 {
		t.Fatal(r)
	}
	na.must("save", iface)
	stripped := na.must("strip", na.file).stdout
	for _, want := range []string{"# whom I know", "#!wice Name = " + nb.name, "PublicKey = " + added, "AllowedIPs = 10.99.1.1/32"} {
		if !strings.Contains(stripped, want) {
			t.Errorf("the saved file lacks %q:\n%s", want, stripped)
		}
	}
	if strings.Contains(stripped, "Address") {
		t.Errorf("wg does not know Address:\n%s", stripped)
	}
	if r := na.run("sh", "-c", wiceGo()+" strip "+na.file+" | wg setconf "+iface+" /dev/stdin"); r.code != 0 {
		t.Errorf("wg does not take it: %v", r)
	}
	if r := na.must("reload", iface); strings.Contains(r.stdout, "added") || strings.Contains(r.stdout, "removed") {
		t.Errorf("the saved file is not what the interface has: %v", r)
	}
}

// losesNothing checks that no packet from one node to the other is lost in so many seconds, while f runs. Of a daemon that has to wait for a
// processor, on a busy machine, they wait in the queue of its interface, which is made long enough for that.
func losesNothing(from, to *node, f func(), seconds string) {
	t := from.w.t
	t.Helper()
	from.ok("ip", "link", "set", iface, "txqueuelen", "10000")
	report := iperf3While(from, to, f, "-t", seconds, "-u", "-b", "4M", "-l", "1000")
	t.Logf("%d packets, %d lost", report.UDP.Packets, report.UDP.LostPackets)
	if report.UDP.Packets == 0 || report.UDP.LostPackets > to.unread() {
		t.Errorf("got %d packets with %d lost, want none but the %d that iperf3 has not read\n%s\n%s",
			report.UDP.Packets, report.UDP.LostPackets, to.unread(), from.counters(), to.counters())
	}
}

// unread is the number of datagrams over IPv4 that the programs of the host were too slow to read: their sockets had no room for more.
func (n *node) unread() int64 {
	n.w.t.Helper()
	r := n.ok("grep", "^Udp:", "/proc/net/snmp")
	lines := strings.Split(r.stdout, "\n")
	names, values := strings.Fields(lines[0]), strings.Fields(lines[1])
	unread, err := strconv.ParseInt(values[slices.Index(names, "RcvbufErrors")], 10, 64)
	if err != nil {
		n.w.t.Fatalf("%v: %v", r, err)
	}
	return unread
}

// counters is what the host's kernel says of packets that it has dropped.
func (n *node) counters() string {
	n.w.t.Helper()
	return fmt.Sprint(n.run("sh", "-c", "ip -s link; grep ^Udp: /proc/net/snmp"))
}
