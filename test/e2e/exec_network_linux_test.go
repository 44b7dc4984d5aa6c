package e2e

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wice-go/wice-go/test/natlab"
)

// fetch is a script that says "whole" when the peer's page at the address has come whole, and else what came.
func fetch(host string) string {
	sum := sha256.Sum256([]byte(execPage))
	return fmt.Sprintf("{ got=$(curl --silent --show-error --max-time 20 http://%s/ | sha256sum); [ \"$got\" = '%x  -' ] && echo whole || echo \"$got\"; }", host, sum)
}

// Several commands share one daemon's tunnel: each has its own connections, servers are reached by the peer, and nothing else is reached.
func TestExecNetwork(t *testing.T) {
	na, nb, file := newExecPair(t)
	before := na.snapshot()
	expect(t, asNobody(na, "up", file, "--wait"), 0)

	// Two at once, with a connection each that takes turns with the other's.
	const conversation = `while read line; do echo "$line"; done | ncat 10.99.0.2 7`
	one, two := startAsNobody(na, nil, "exec", iface, "--", "sh", "-c", conversation), startAsNobody(na, nil, "exec", iface, "--", "sh", "-c", conversation)
	for n := range 3 {
		for _, e := range []*execution{one, two} {
			line := fmt.Sprintf("line %d of %p", n, e)
			e.types(line)
			e.says(line + "\n")
		}
	}
	if err := one.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	one.ends()
	two.types("still here")
	two.says("still here\n")
	if strings.Contains(two.out.String(), fmt.Sprintf("%p", one)) {
		t.Errorf("one has what is the other's: %v", two)
	}
	var fetches []*execution
	for range 3 {
		fetches = append(fetches, startAsNobody(na, nil, "exec", iface, "--", "sh", "-c", fetch(nb.addr.String())))
	}
	for _, e := range fetches {
		if code := e.ends(); code != 0 || e.out.String() != "whole\n" {
			t.Errorf("one of three downloads at once: exit code %d: %v", code, e)
		}
	}

	// Servers inside: on a low port, for the peer and by both versions.
	server := startAsNobody(na, nil, "exec", iface, "--", "ncat", "-v", "-l", "-k", "80", "-c", "echo served")
	server.says("Listening on 0.0.0.0:80")
	for _, to := range []string{na.addr.String(), "fd99::1"} {
		if r := nb.run("ncat", "--recv-only", "-w", "10", to, "80"); r.code != 0 || r.stdout != "served\n" {
			t.Errorf("the peer asks a server inside: %v; %v", r, server)
		}
	}
	server.signal(unix.SIGTERM)
	server.ends()
	throughput := startAsNobody(na, nil, "exec", iface, "--", "iperf3", "-s", "-1", "--forceflush")
	throughput.says("Server listening")
	if r := nb.run("iperf3", "-c", na.addr.String(), "-n", "4M"); r.code != 0 {
		t.Errorf("iperf3 from the peer: %v; %v", r, throughput)
	}
	throughput.ends()
	nb.firstPing(na.addr) // the userspace stack is there all the time
	two.signal(unix.SIGTERM)
	two.ends()

	// The underlay, which the host reaches, is not there.
	outside := na.w.lab.Server.Addr4().String()
	if r := na.run("ping", "-n", "-c", "1", "-W", "10", outside); r.code != 0 {
		t.Fatalf("the host does not reach what the command shall not: %v", r)
	}
	for _, to := range []string{outside, "192.168.10.1", na.host.Addr4().String(), nb.host.Addr4().String()} {
		for _, command := range []string{"ping -n -c 1 -W 3 " + to, "curl --silent --show-error --max-time 3 http://" + to + ":3478/"} {
			if r := asNobody(na, append([]string{"exec", iface, "--"}, strings.Fields(command)...)...); r.code == 0 || !strings.Contains(r.stderr, "unreachable") && r.code != 7 {
				t.Errorf("what is outside the tunnel is reached: %v", r)
			}
		}
	}
	r := asNobody(na, "exec", iface, "--", "sh", "-c", "ip route; ip -6 route")
	for line := range strings.Lines(r.stdout) {
		if !containsWord(line, iface) {
			t.Errorf("a route past the tunnel: %q", line)
		}
	}
	if r.code != 0 || strings.Count(r.stdout, "\n") < 4 {
		t.Errorf("want routes by both versions: %v", r)
	}
	// Inside there may be another.
	r = asNobody(na, "exec", iface, "--", wiceGo(), "exec", iface, "--", "sh", "-c", fetch(dnsName)+"; "+fetch(nb.name))
	if r.code != 0 || r.stdout != "whole\nwhole\n" {
		t.Errorf("exec inside exec: %v", r)
	}
	expect(t, asNobody(na, "down", iface), 0)
	na.asBefore(before, cleanLimit)
}

// Where all users may open /dev/net/tun, as on most systems, the namespace's interface is a TUN device.
func TestExecWithTUN(t *testing.T) {
	na, nb, file := newExecPair(t)
	for _, command := range []string{"mknod -m 666 /run/tun c 10 200", "mount --bind /run/tun /dev/net/tun"} {
		args := strings.Fields(command)
		if r := na.run(args[0], args[1:]...); r.code != 0 {
			t.Fatal(r)
		}
	}
	before := na.snapshot()
	r := asNobody(na, "exec", file, "--", "sh", "-c", "ip -details link show wg0 | grep -c 'tun type tun'; ping -n -q -c 3 -i 0.05 -W 10 10.99.0.2 && ping -n -q -c 3 -i 0.05 -W 10 fd99::2 && "+fetch(nb.name))
	if r.code != 0 || !strings.HasPrefix(r.stdout, "1\n") || !strings.HasSuffix(r.stdout, "whole\n") {
		t.Error(r)
	}
	na.gone(cleanLimit)
	na.asBefore(before, cleanLimit)
}

// The other side may be a plain wireguard-go, or a command inside the tunnel of another user without rights.
func TestExecPeers(t *testing.T) {
	for _, tool := range []string{"setpriv", "curl", "ncat"} {
		needTool(t, tool)
	}
	site := natlab.Site{NAT: natlab.PortRestricted}
	w := newWorld(t, natlab.Config{A: site, B: site})
	w.rendezvous()
	na, nb, plain := w.node(w.lab.A[0]), w.node(w.lab.B[0]), w.node(w.lab.Server)
	other := peer{name: "plain", key: plain.key.Public(), allowed: []string{plain.addr.String() + "/32"}, lines: []string{fmt.Sprintf("Endpoint = %s:40000", plain.host.Addr4())}}
	na.peers = []peer{other}
	plainPeer(plain, na, netip.MustParseAddrPort("5.1.99.99:9")) // nobody: it has to be spoken to
	serveHTTP(plain, netip.AddrPortFrom(plain.addr, 80), execPage)
	before := na.snapshot()
	r := asNobody(na, "exec", nobodyFile(na, na.config(), 0o600, 65534), "--", "sh", "-c", fetch("plain"))
	if r.code != 0 || r.stdout != "whole\n" {
		t.Errorf("no other peer: %v", r)
	}
	t.Logf("no other peer: %v", r.took.Round(ms))

	other.lines = append(other.lines, "#!wice ICE = off")
	na.peers = []peer{other}
	join(na, nb)
	fileA, fileB := nobodyFile(na, na.config(), 0o600, 65534), nobodyFile(nb, nb.config(), 0o600, 65534)
	expect(t, asNobody(na, "exec", fileA, "--wait=200ms", "--", "true"), 4, nb.name)
	na.gone(cleanLimit)
	expect(t, asNobody(nb, "up", fileB), 0)
	server := startAsNobody(nb, nil, "exec", iface, "--", "ncat", "-v", "-l", "-k", "80", "-c", "echo served")
	server.says("Listening on 0.0.0.0:80")
	script := fetch("plain") + fmt.Sprintf("; ping -n -q -c 2 -i 0.05 -W 10 %s && ping -n -q -c 2 -i 0.05 -W 10 %s && ncat --recv-only -w 10 %s 80", plain.addr, nb.addr, nb.name)
	r = asNobody(na, "exec", fileA, "--", "sh", "-c", script)
	if r.code != 0 || !strings.HasPrefix(r.stdout, "whole\n") || !strings.HasSuffix(r.stdout, "served\n") {
		t.Errorf("%v; %v", r, server)
	}
	na.gone(cleanLimit)
	removeNobody(na)
	na.asBefore(before, cleanLimit)
}

// Beside a kernel TUN, which root's daemon has, commands inside take part in the tunnel while the host's own programs use it as before.
func TestExecBesideKernel(t *testing.T) {
	na, nb, _ := newExecPair(t)
	removeNobody(na)
	before := na.snapshot()
	na.up()
	na.firstPing(nb.addr)
	up := na.snapshot()
	stream := na.pingStream(nb.addr)
	conversation := startOn(na, nil, "ncat", []string{nb.addr.String(), "7"}, nil)
	conversation.types("before")
	conversation.says("before\n")
	inside := func(argv ...string) *execution {
		return startOn(na, func(cmd *exec.Cmd) { cmd.Stdin = strings.NewReader("") }, wiceGo(), append([]string{"exec", iface, "--"}, argv...), nil)
	}
	for _, e := range []*execution{
		inside("sh", "-c", fetch(nb.addr.String())), inside("sh", "-c", fetch("[fd99::2]")), inside("sh", "-c", fetch(dnsName)),
		startOn(na, nil, "sh", []string{"-c", fetch(nb.addr.String())}, nil), startOn(na, nil, "sh", []string{"-c", fetch("[fd99::2]")}, nil),
	} {
		if code := e.ends(); code != 0 || e.out.String() != "whole\n" {
			t.Errorf("one of several downloads at once: exit code %d: %v", code, e)
		}
	}
	ping := inside("ping", "-n", "-q", "-c", "5", "-i", "0.05", "-W", "10", "fd99::2")
	if code := ping.ends(); code != 0 || !strings.Contains(ping.out.String(), "5 received") {
		t.Errorf("exit code %d: %v", code, ping)
	}
	conversation.types("after")
	conversation.says("after\n")
	stream.repliesAfter(5)
	if lost, outage := stream.stop(); lost > 0 {
		t.Errorf("the host lost %d pings beside the command's; longest outage %v", lost, outage)
	}
	conversation.signal(unix.SIGTERM)
	conversation.ends()
	na.asBefore(up, cleanLimit)
	na.down()
	na.asBefore(before, cleanLimit)
}

// Where namespaces are not permitted, exec says what to ask for, and what works without.
func TestExecRefused(t *testing.T) {
	na, _, file := newExecPair(t)
	before := na.snapshot()
	inChroot := append(append([]string{"--mount", "sh", "-c", `mkdir /run/root && mount --rbind / /run/root && exec chroot --userspec=65534:65534 /run/root env "$@"`, "sh"},
		nobodyEnv...), wiceGo(), "exec", file, "--", "true")
	for _, c := range []struct {
		why, wanted string
		result      result
	}{
		{"a limit", "user.max_user_namespaces", nobodyRuns(na, "unshare", "--user", "--map-user=65534", "--map-group=65534", "--keep-caps", "sh", "-c",
			`echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --inh-caps=-all --ambient-caps=-all -- "$@"`, "sh", wiceGo(), "exec", file, "--", "true")},
		{"not permitted, as in a chroot", "seccomp", na.run("unshare", inChroot...)},
	} {
		for _, want := range []string{c.wanted, "wice-go exec " + iface + " --proxy-env -- true"} {
			if c.result.code != 1 || !strings.Contains(c.result.stderr, want) {
				t.Errorf("%s: want %q on stderr: %v", c.why, want, c.result)
			}
		}
	}
	na.gone(cleanLimit)
	na.asBefore(before, cleanLimit)
}

// When all traffic goes into the tunnel, a command inside has no other way, and the host keeps its own.
func TestExecFullTunnel(t *testing.T) {
	na, nb, _ := newExecPair(t)
	na.peers[0].allowed = []string{"0.0.0.0/0", "::/0"}
	file := nobodyFile(na, na.config(), 0o600, 65534)
	before := na.snapshot()
	outside, beyond := na.w.lab.Server.Addr4().String(), nb.host.Addr4().String()
	if r := na.run("ping", "-n", "-c", "1", "-W", "1", beyond); r.code == 0 {
		t.Fatalf("the host reaches what lies behind the tunnel without it: %v", r)
	}
	script := fmt.Sprintf("ping -n -q -c 2 -i 0.05 -W 10 %s && { ping -n -q -c 1 -W 1 %s || echo not past the tunnel; } && %s", beyond, outside, fetch(dnsName))
	r := asNobody(na, "exec", file, "--ice-server", "turn:user:secret-of-alice@192.0.2.1:3478", "--", "sh", "-c", script+"; env")
	if r.code != 0 || !strings.Contains(r.stdout, "not past the tunnel\nwhole\n") {
		t.Error(r)
	}
	if strings.Contains(r.stdout, "secret-of-alice") {
		t.Errorf("the command's environment has a secret of the daemon: %v", r)
	}
	na.gone(cleanLimit)
	na.asBefore(before, cleanLimit)
}
