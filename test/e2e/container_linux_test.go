package e2e

import (
	"bufio"
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/wice-go/wice-go/test/natlab"
)

// container stands in for one: user, network and mount namespaces of its own, in which the user nobody is root, without /dev/net/tun, and with
// an uplink to the node's host, which translates addresses.
type container struct {
	n   *node
	pid string
}

func newContainer(n *node) *container {
	n.w.t.Helper()
	needTool(n.w.t, "unshare")
	const script = "mount -t tmpfs none /dev/net && mount -t tmpfs none /run && mkdir /run/wireguard && ip link set lo up && echo $$ && exec cat > /dev/null"
	cmd := n.host.Command(context.Background(), "setpriv", append(nobodyFlags, "unshare", "-Urnm", "sh", "-c", script)...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		n.w.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		n.w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		n.w.t.Fatal(err)
	}
	n.w.t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		n.w.t.Fatalf("make the container: %v", err)
	}
	c := &container{n, strings.TrimSpace(line)}
	r := n.run("sh", "-ec", `
		ip link add container type veth peer name eth0 netns `+c.pid+`
		ip address add 172.17.0.1/16 dev container
		ip link set container up
		echo 1 > /proc/sys/net/ipv4/ip_forward
		nft 'table ip container { chain post { type nat hook postrouting priority 100; policy accept; ip saddr 172.17.0.0/16 masquerade; }; }'`)
	if r.code != 0 {
		n.w.t.Fatal(r)
	}
	if r := c.run("sh", "-ec", "ip address add 172.17.0.2/16 dev eth0; ip link set eth0 up; ip route add default via 172.17.0.1"); r.code != 0 {
		n.w.t.Fatal(r)
	}
	return c
}

// run runs a program in the container, as its root.
func (c *container) run(name string, args ...string) result {
	c.n.w.t.Helper()
	before := c.n.env
	defer func() { c.n.env = before }()
	c.n.env = append(c.n.env[:len(c.n.env):len(c.n.env)], "WICE_RUNTIME_DIR=/run", "TMPDIR=/run")
	return c.n.run("nsenter", append([]string{"-t", c.pid, "-U", "-n", "-m", "--", name}, args...)...)
}

// In a container without any privilege, "up" takes the userspace stack, whose proxies and exec are the ways into the tunnel.
func TestContainer(t *testing.T) {
	for _, tool := range []string{"setpriv", "curl", "nft"} {
		needTool(t, tool)
	}
	site := natlab.Site{NAT: natlab.PortRestricted}
	w := newWorld(t, natlab.Config{A: site, B: site})
	w.rendezvous()
	na, nb := w.node(w.lab.A[0]), w.node(w.lab.B[0])
	join(na, nb)
	nb.up()
	serveHTTP(nb, netip.AddrPortFrom(nb.addr, 80), execPage)
	c := newContainer(na)
	write := c.run("sh", "-c", "umask 077; cat > /run/wg0.conf <<'EOF'\n"+na.config()+"EOF")
	if write.code != 0 {
		t.Fatal(write)
	}
	expect(t, c.run("env", "WICE_SOCKS5=127.0.0.1:9", wiceGo(), "up", "/run/wg0.conf", "--wait", "--socks5=127.0.0.1:1080"), 0, "no kernel TUN here") // the flag wins
	if r := c.run("sh", "-c", strings.Replace(fetch(nb.name), "curl", "curl --socks5-hostname 127.0.0.1:1080", 1)); r.stdout != "whole\n" {
		t.Errorf("through the proxy: %v", r)
	}
	inside := []string{wiceGo(), "exec", iface, "--", "sh", "-c", fetch(nb.name) + "; id -u"}
	if r := c.run(inside[0], inside[1:]...); r.stdout != "whole\n0\n" {
		t.Errorf("exec: %v", r)
	}
	// As a container's runtime leaves it: with kernel settings that can't be changed, and a root with few rights: of those that Docker leaves, one is needed.
	bare := append([]string{"sh", "-ec", `mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; ! echo 1 2>/dev/null > /proc/sys/net/ipv4/ip_forward
		exec setpriv --bounding-set=-all,+setfcap --inh-caps=-all -- "$@"`, "sh"}, inside...)
	if r := c.run("unshare", append([]string{"--mount"}, bare...)...); r.stdout != "whole\n0\n" {
		t.Errorf("exec by a root without rights: %v", r)
	}
	expect(t, c.run(wiceGo(), "down", iface), 0)
	// As what the container runs: the first of its processes.
	first := append([]string{"--mount", "--pid", "--fork", "--mount-proc", wiceGo(), "exec", "/run/wg0.conf"}, inside[3:]...)
	if r := c.run("unshare", first...); r.stdout != "whole\n0\n" || r.code != 0 {
		t.Errorf("exec as the first process: %v", r)
	}
	if r := c.run("sh", "-c", "ls /run /tmp/wice-go* 2>/dev/null; ip -o link show type veth; ip -o link show type tun"); strings.Contains(r.stdout, iface+":") || strings.Contains(r.stdout, "sock") {
		t.Errorf("something is left: %v", r)
	}
}
