package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/test/natlab"
)

// threadRights is what /proc says of the capabilities of a thread.
type threadRights struct {
	permitted, effective, bounding uint64
	noNewPrivileges                bool
}

func (r threadRights) String() string {
	return fmt.Sprintf("permitted %x, effective %x, bounding %x, no new privileges %v", r.permitted, r.effective, r.bounding, r.noNewPrivileges)
}

// rightsOf reads the "status" file of a thread.
func rightsOf(t *testing.T, file string) (r threadRights) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		n, err := strconv.ParseUint(value, 16, 64)
		switch name {
		case "CapPrm":
			r.permitted = n
		case "CapEff":
			r.effective = n
		case "CapBnd":
			r.bounding = n
		case "NoNewPrivs":
			r.noNewPrivileges = n == 1
		default:
			continue
		}
		if err != nil {
			t.Fatalf("%s: %q: %v", file, line, err)
		}
		found++
	}
	if found != 4 {
		t.Fatalf("%s lacks some of the capabilities:\n%s", file, text)
	}
	return r
}

// hasRights checks every thread of the node's daemon.
func (n *node) hasRights(want threadRights) {
	n.w.t.Helper()
	t := n.w.t.(*testing.T)
	pids := n.daemons()
	if len(pids) != 1 {
		t.Fatalf("%s has daemons %v, want one", n.name, pids)
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pids[0]))
	if err != nil || len(threads) < 2 {
		t.Fatalf("threads of the daemon: %v, %v", threads, err)
	}
	for _, thread := range threads {
		if _, err := os.Stat(thread); err != nil {
			continue // it has ended
		}
		if got := rightsOf(t, thread); got != want {
			t.Errorf("%s: %s: got %v\nwant %v", n.name, thread, got, want)
		}
	}
}

// caps is a set of capabilities.
func caps(list ...int) (set uint64) {
	for _, c := range list {
		set |= 1 << c
	}
	return set
}

// only are the rights of a daemon that has these, and whose children get no others.
func only(set uint64) threadRights { return threadRights{set, set, set, true} }

var kernelTunRights = caps(unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE)

// resolvconfScript does what resolvconf does, and something that needs a right that the daemon has given up.
const resolvconfScript = `#!/bin/sh -e
if [ "$1" = -a ]; then
	cp /etc/resolv.conf /run/resolv.saved
	cat >/etc/resolv.conf
else
	cat /run/resolv.saved >/etc/resolv.conf
	rm /run/resolv.saved
	touch "$RESOLVCONF_NOTES"
	chown 65534:65534 "$RESOLVCONF_NOTES"
fi
`

// A daemon without commands that are still to be run keeps what it needs for good, and that is enough: for ports and marks set by wg, for a
// reload that makes and unmakes a full tunnel, for commands inside the tunnel, for its end.
func TestRights(t *testing.T) {
	needTool(t, "curl")
	_, na, nb := newPair(t, natlab.PortRestricted)
	before := na.snapshot()
	nb.up()
	serveHTTP(nb, netip.AddrPortFrom(nb.addr, 80), execPage)
	na.up()
	na.hasRights(only(kernelTunRights))
	na.firstPing(nb.addr)

	na.ok("wg", "set", iface, "listen-port", "80", "fwmark", "0x77")
	if r := na.ok("wg", "show", iface, "listen-port"); strings.TrimSpace(r.stdout) != "80" {
		t.Errorf("the port that wg has set: %v", r)
	}
	na.firstPing(nb.addr)
	na.must("ping", iface, nb.name, "-c", "1")
	if r := na.run(wiceGo(), "exec", iface, "--", "sh", "-c", fetch(nb.addr.String())); r.stdout != "whole\n" {
		t.Errorf("exec: %v", r)
	}
	na.ok("wg", "set", iface, "fwmark", "0")

	na.lines = append(na.lines, "ListenPort = 443", "MTU = 1300", "DNS = 10.99.0.2", "PostDown = true")
	na.peers = append(na.peers, peer{key: key.NewPrivate().Public(), allowed: []string{"10.97.0.0/24"}})
	na.writeConfig()
	r := na.must("reload", iface)
	for _, later := range []string{"MTU", "DNS", "PostDown"} {
		if !strings.Contains(r.stderr, later) {
			t.Errorf("%s takes effect at once, or never: %v", later, r)
		}
	}
	if r := na.ok("ip", "route", "get", "10.97.0.1"); !containsWord(r.stdout, iface) {
		t.Errorf("the route of a reload: %v", r)
	}
	if r := na.ok("wg", "show", iface, "listen-port"); strings.TrimSpace(r.stdout) != "443" {
		t.Errorf("the port of a reload: %v", r)
	}
	na.firstPing(nb.addr)
	rules := na.ok("ip", "rule").stdout
	na.peers[0].allowed = append(na.peers[0].allowed, "0.0.0.0/0")
	na.writeConfig()
	na.must("reload", iface)
	if r := na.ok("ip", "route", "get", "5.1.200.1"); !containsWord(r.stdout, iface) {
		t.Errorf("the default route of a reload: %v", r)
	}
	if r := na.ok("nft", "list", "ruleset"); !strings.Contains(r.stdout, "wice-go-"+iface) {
		t.Errorf("the packet filter of a reload: %v", r)
	}
	na.firstPing(nb.addr)
	na.peers[0].allowed = na.peers[0].allowed[:1]
	na.peers = na.peers[:1]
	na.writeConfig()
	na.must("reload", iface)
	if r := na.ok("ip", "rule"); r.stdout != rules {
		t.Errorf("got rules %s, want %s", r.stdout, rules)
	}
	na.must("save", iface)
	na.hasRights(only(kernelTunRights)) // threads that are new too
	na.down()
	na.asBefore(before, cleanLimit)

	// The full tunnel of the file itself, whose rules are to be removed.
	na.lines = nil
	na.peers[0].allowed = append(na.peers[0].allowed, "0.0.0.0/0")
	na.up()
	na.hasRights(only(kernelTunRights))
	na.firstPing(nb.addr)
	na.down()
	na.asBefore(before, cleanLimit)

	// Root's userspace stack, which asks the kernel for no echo.
	na.peers[0].allowed = na.peers[0].allowed[:1]
	na.up("--tun", "netstack", "--wait")
	na.hasRights(only(caps(unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE)))
	na.must("ping", iface, nb.name, "-c", "1")
	na.ok("wg", "set", iface, "listen-port", "81", "fwmark", "0x77")
	if r := na.ok("wg", "show", iface, "listen-port"); strings.TrimSpace(r.stdout) != "81" {
		t.Errorf("the port of the userspace stack: %v", r)
	}
	na.down()
	na.asBefore(before, cleanLimit)

	// The bare interface of wireguard-go.
	na.quiet().dropIn()
	na.hasRights(only(kernelTunRights))
	na.ok("wg", "set", iface, "listen-port", "82", "fwmark", "0x77")
	if r := na.ok("wg", "show", iface, "listen-port"); strings.TrimSpace(r.stdout) != "82" {
		t.Errorf("the port of the bare interface: %v", r)
	}
	na.ok("ip", "link", "del", iface)
	na.gone(patience)
	na.asBefore(before, cleanLimit)
}

// What is run when the interface goes down has all of root's rights: commands of the file, and the scripts of resolvconf.
func TestRightsOfCommands(t *testing.T) {
	w := newWorld(t, natlab.Config{LANOnly: true, A: natlab.Site{Hosts: 3}})
	all := rightsOf(t, "/proc/self/status").bounding
	want := threadRights{kernelTunRights, kernelTunRights, all, false}
	owner := func(path string) uint32 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Error(err)
		}
		return st.Uid
	}
	note := func(n *node) string { return filepath.Join(filepath.Dir(n.file), "note") }

	hooked := w.node(w.lab.A[0])
	hooked.lines = []string{
		fmt.Sprintf("PreDown = touch %s; chown 65534 %[1]s", note(hooked)), // while the interface is there
		fmt.Sprintf("PostDown = grep -q 'CapEff:.*%x' /proc/self/status && chmod 600 %s", all, note(hooked)),
	}
	before := hooked.snapshot()
	hooked.up()
	hooked.hasRights(want)
	hooked.down()
	hooked.asBefore(before, cleanLimit)
	if uid := owner(note(hooked)); uid != 65534 {
		t.Errorf("PreDown: the file's owner is %d", uid)
	}
	if info, err := os.Stat(note(hooked)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("PostDown: %v, %v", info, err)
	}

	named := w.node(w.lab.A[1], "DNS = 10.99.0.53")
	tools := filepath.Join(filepath.Dir(named.file), "sbin")
	for _, err := range []error{os.Mkdir(tools, 0o755), os.WriteFile(filepath.Join(tools, "resolvconf"), []byte(resolvconfScript), 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	named.env = append(named.env, "PATH="+tools+":"+os.Getenv("PATH"), "RESOLVCONF_NOTES="+note(named))
	before = named.snapshot()
	named.up()
	named.hasRights(want)
	if r := named.ok("cat", "/etc/resolv.conf"); r.stdout != "nameserver 10.99.0.53\n" {
		t.Errorf("DNS: %v", r)
	}
	named.down()
	named.asBefore(before, cleanLimit)
	if uid := owner(note(named)); uid != 65534 {
		t.Errorf("resolvconf: the file's owner is %d", uid)
	}

	// The file of another user is read and replaced as before, which takes one right more; in another user's hands there is none to drop.
	lent := w.node(w.lab.A[2])
	before = lent.snapshot()
	lent.up()
	if err := os.Chown(lent.file, 65534, 65534); err != nil { // too late for the daemon to know that it takes that right
		t.Fatal(err)
	}
	for _, verb := range []string{"reload", "save"} {
		if r := lent.run(wiceGo(), verb, iface); r.code != 1 || !strings.Contains(r.stderr, "CAP_DAC_OVERRIDE") {
			t.Errorf("%s of a file that has become another user's: %v", verb, r)
		}
	}
	lent.down()
	file := nobodyFile(lent, lent.config(), 0o600, 65534)
	lent.must("up", file)
	lent.hasRights(only(kernelTunRights | caps(unix.CAP_DAC_OVERRIDE, unix.CAP_CHOWN)))
	lent.peers = []peer{{name: "new", key: key.NewPrivate().Public(), allowed: []string{"10.96.0.0/24"}}}
	nobodyFile(lent, lent.config(), 0o600, 65534)
	if r := lent.must("reload", iface); !strings.Contains(r.stdout, "peer new added") {
		t.Errorf("reload: %v", r)
	}
	lent.ok("wg", "set", iface, "peer", lent.peers[0].key.String(), "persistent-keepalive", "7")
	lent.must("save", iface)
	if r := lent.ok("cat", file); !strings.Contains(r.stdout, "PersistentKeepalive = 7") {
		t.Errorf("save: %v", r)
	}
	if r := lent.ok("stat", "-c", "%u:%g %a", file); r.stdout != "65534:65534 600\n" {
		t.Errorf("the owner of what was saved: %v", r)
	}
	lent.down()
	nobodyFile(lent, lent.config(), 0o600, 65534)
	expect(t, asNobody(lent, "up", file), 0)
	lent.hasRights(threadRights{bounding: all})
	expect(t, asNobody(lent, "down", iface), 0)
	lent.gone(cleanLimit)
	removeNobody(lent)
	lent.asBefore(before, cleanLimit)
}
