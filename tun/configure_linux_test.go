package tun

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestConfigure(t *testing.T) {
	for _, c := range []struct {
		name         string
		config       Config
		main, other  string // routes of the interface: in the main table, in table 77
		mtu          string
		mark         uint32
		defaultRoute string // attributes of it
	}{
		{
			name:   "addresses alone",
			config: Config{Addresses: prefixes("10.9.0.1/24", "fd00:9::1/64")},
			main:   "10.9.0.0/24 fd00:9::/64", mtu: "mtu 1420 ",
		},
		{
			name: "routes not covered by addresses",
			config: Config{Addresses: prefixes("10.9.0.1/24", "fd00:9::1/64"), MTU: 1300,
				Routes: prefixes("10.9.0.2/32", "fd00:9::2/128", "10.8.0.0/16", "10.8.1.0/24", "10.8.0.0/16", "fd00:8::/48", "172.16.5.9/24")},
			main: "10.8.0.0/16 10.8.1.0/24 10.9.0.0/24 172.16.5.0/24 fd00:8::/48 fd00:9::/64", mtu: "mtu 1300 ",
		},
		{
			name: "a table",
			config: Config{Addresses: prefixes("10.9.0.1/24"), Table: 77, FwMark: 5,
				Routes: prefixes("10.9.0.2/32", "0.0.0.0/0", "::/0", "fd00:8::/48")},
			main: "10.9.0.0/24", other: "default 10.9.0.2 fd00:8::/48 default", mtu: "mtu 1420 ", mark: 5,
		},
		{
			name:   "table off",
			config: Config{Addresses: prefixes("10.9.0.1/32"), Table: TableOff, Routes: prefixes("10.7.0.0/16", "0.0.0.0/0")},
			mtu:    "mtu 1420 ",
		},
		{
			name:   "small MTU of the default route",
			config: Config{Addresses: prefixes("10.9.0.1/32")}, defaultRoute: "mtu 1300", mtu: "mtu 1220 ",
		},
		{
			name:   "IPv6 needs 1280",
			config: Config{Addresses: prefixes("fd00:9::1/128")}, defaultRoute: "mtu 1300", mtu: "mtu 1280 ",
			main: "fd00:9::1",
		},
		{
			name:   "a large MTU of the default route changes nothing",
			config: Config{Addresses: prefixes("10.9.0.1/32")}, defaultRoute: "mtu 9000", mtu: "mtu 1420 ",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			newNamespace(t)
			if c.defaultRoute != "" {
				shell(t, "ip link set out mtu 9000; ip route replace default via 192.0.2.1 "+c.defaultRoute)
			}
			before := snapshot(t)
			dev := openDevice(t, "wgt0")
			j, path := openTestJournal(t)
			d, err := Configure("wgt0", c.config, j)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range c.config.Addresses { // first, before the kernel has had time for anything
				l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.Addr(), 0)))
				if err != nil {
					t.Fatal(err)
				}
				l.Close()
			}
			if w := d.Warnings(); len(w) > 0 {
				t.Errorf("warnings: %v", w)
			}
			if got := routesOf(t, "main"); got != c.main {
				t.Errorf("main table: got %q, want %q", got, c.main)
			}
			if got := routesOf(t, "77"); got != c.other {
				t.Errorf("table 77: got %q, want %q", got, c.other)
			}
			if got := shell(t, "ip -o link show wgt0"); !strings.Contains(got, c.mtu) || !strings.Contains(got, "UP,LOWER_UP") {
				t.Errorf("link: got %s, want up and %s", got, c.mtu)
			}
			for _, a := range c.config.Addresses {
				if got := shell(t, "ip -o addr show dev wgt0"); !strings.Contains(got, " "+a.String()+" ") || strings.Contains(got, "brd") {
					t.Errorf("addresses: got %s, want %s and no broadcast", got, a)
				}
			}
			if got := d.FwMark(); got != c.mark {
				t.Errorf("mark: got %d, want %d", got, c.mark)
			}
			// Once more changes nothing.
			once := snapshot(t)
			again, err := Configure("wgt0", c.config, j)
			if err != nil {
				t.Fatalf("again: %v", err)
			}
			if diff := cmp.Diff(once, snapshot(t)); diff != "" {
				t.Errorf("configured again:\n%s", diff)
			}
			for _, x := range []*Configured{d, again, d} {
				if err := x.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}
			if got := shell(t, "ip -o addr show dev wgt0; ip route show table all dev wgt0"); got != "" {
				t.Errorf("left on the interface: %s", got)
			}
			if err := dev.Close(); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(before, snapshot(t)); diff != "" {
				t.Errorf("left behind:\n%s", diff)
			}
			if err := j.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the journal is left: %v", err)
			}
		})
	}
}

// routesOf lists the destinations of the interface's routes in a table, without those of link-local addresses.
func routesOf(t *testing.T, table string) string {
	t.Helper()
	var list []string
	for _, f := range []string{"-4", "-6"} {
		out, _ := exec.Command("ip", f, "route", "show", "dev", "wgt0", "table", table).Output() // fails for a table never used
		for line := range strings.Lines(string(out)) {
			if dst := strings.Fields(line)[0]; !strings.HasPrefix(dst, "fe80") {
				list = append(list, dst)
			}
		}
	}
	return strings.Join(list, " ")
}

func TestFullTunnel(t *testing.T) {
	newNamespace(t)
	log := useTools(t, "resolvconf")
	before := snapshot(t)
	dev := openDevice(t, "wgt0")
	j, _ := openTestJournal(t)
	shell(t, "ip route add 203.0.113.0/24 dev out table 51820")
	d, err := Configure("wgt0", fullTunnel(), j)
	if err != nil {
		t.Fatal(err)
	}
	if w := d.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %v", w)
	}
	if d.FwMark() != 51821 {
		t.Errorf("mark: got %d, want 51821, as table 51820 is in use", d.FwMark())
	}
	again, err := Configure("wgt0", fullTunnel(), j)
	if err != nil || again.FwMark() != 51821 {
		t.Errorf("again: got %v and mark %d", err, again.FwMark())
	}
	for _, c := range []struct{ query, want string }{
		{"ip route get 198.51.100.1", "dev wgt0"}, {"ip route get 198.51.100.1 mark 51821", "dev out"},
		{"ip route get 192.0.2.7", "dev out"}, {"ip -6 route get 2001:db8:1::1", "dev wgt0"},
		{"ip -6 route get 2001:db8:1::1 mark 51821", "dev out"}, {"ip -6 route get 2001:db8:ffff::7", "dev out"},
	} {
		if got := shell(t, c.query); !strings.Contains(got, c.want) {
			t.Errorf("%s: got %s, want %s", c.query, got, c.want)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
	shell(t, "ip route del 203.0.113.0/24 dev out table 51820")
	if diff := cmp.Diff(before, snapshot(t)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	set := "resolvconf -a wgt0 -m 0 -x\nnameserver 10.9.0.53\nsearch example.org\n"
	if want := set + set + "resolvconf -d wgt0 -f\n"; string(text) != want {
		t.Errorf("resolvconf: got\n%s, want\n%s", text, want)
	}
}

// TestDeviceClosedFirst checks the other order of closing, and that Close spares a new interface of the same name.
func TestDeviceClosedFirst(t *testing.T) {
	newNamespace(t)
	before := snapshot(t)
	dev := openDevice(t, "wgt0")
	j, _ := openTestJournal(t)
	d, err := Configure("wgt0", fullTunnel(), j)
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	shell(t, "ip link add wgt0 type veth peer name wgt1 && ip addr add 10.9.0.1/24 dev wgt0 && ip link set wgt0 up")
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if got := shell(t, "ip -o addr show dev wgt0"); !strings.Contains(got, "10.9.0.1/24") {
		t.Errorf("the new interface lost its address: %s", got)
	}
	shell(t, "ip link del wgt0")
	if diff := cmp.Diff(before, snapshot(t)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

// TestLikeWgQuick lets the real wg-quick set up the same tunnel over a userspace WireGuard, and compares.
func TestLikeWgQuick(t *testing.T) {
	newNamespace(t)
	if _, err := exec.LookPath("wg-quick"); err != nil {
		t.Skip("needs wg-quick")
	}
	dir := t.TempDir()
	ready := filepath.Join(dir, "ready")
	conf := `[Interface]
PrivateKey = AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=
Address = 10.9.0.1/24, fd00:9::1/64
DNS = 10.9.0.53, example.org
[Peer]
PublicKey = NYpvPx7B+UKIZRnEQvDTgt01h0BoZpLUDDHQ3N6RImo=
AllowedIPs = 0.0.0.0/0, ::/0, 10.9.0.2/32, 192.168.77.0/24, fd00:9:1::/48
`
	name := fmt.Sprintf("wq%d", os.Getpid())
	file := filepath.Join(dir, name+".conf")
	// wg-quick waits for its WireGuard to detach; the stand-in is this binary, of which the script waits to be ready.
	implementation := filepath.Join(dir, "wg-userspace")
	script := fmt.Sprintf("#!/bin/sh\n%s=wireguard WICE_TUN_TEST_READY=%s %s \"$1\" >/dev/null 2>&1 </dev/null &\nwhile ! [ -e %s ]; do kill -0 $! || exit 1; sleep 0.05; done\n",
		childEnv, ready, os.Args[0], ready)
	for path, text := range map[string]string{file: conf, implementation: script} {
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("WG_QUICK_USERSPACE_IMPLEMENTATION", implementation)
	if said := shell(t, "wg-quick up "+file); !strings.Contains(said, "fwmark") {
		t.Fatalf("wg-quick made no full tunnel: %s", said)
	}
	list := func(iface, table string) string {
		s := shell(t, "ip -d -4 rule; ip -d -6 rule; ip -d -4 route show table all; ip -d -6 route show table all; nft list ruleset ip; nft list ruleset ip6; ip -d addr show dev "+iface+" | grep inet; sysctl net.ipv4.conf.all.src_valid_mark; ip -o link show "+iface+" | grep -o 'mtu [0-9]*'")
		return strings.ReplaceAll(normal(strings.ReplaceAll(strings.ReplaceAll(s, table, "TABLE"), iface, "IFACE")), " \n", "\n")
	}
	want := list(name, "wg-quick-"+name)
	shell(t, "wg-quick down "+file)

	openDevice(t, "wgt0")
	j, _ := openTestJournal(t)
	d, err := Configure("wgt0", fullTunnel(), j)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, list("wgt0", "wice-go-wgt0")); diff != "" {
		t.Errorf("wg-quick's (-) and ours (+) differ:\n%s", diff)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestCrash(t *testing.T) {
	newNamespace(t)
	before := snapshot(t)
	path := filepath.Join(t.TempDir(), "wgt0.journal")
	cmd, out := startChild(t, "configure-and-wait", path)
	if line, err := out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("child: %q, %v", line, err)
	}
	if err := Recover(path); !errors.Is(err, ErrInUse) {
		t.Errorf("Recover from a live process: got %v, want %v", err, ErrInUse)
	}
	if _, err := OpenJournal(path); !errors.Is(err, ErrInUse) {
		t.Errorf("OpenJournal of a live process: got %v, want %v", err, ErrInUse)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if cmp.Equal(before, snapshot(t)) {
		t.Fatal("the crash left nothing behind: this test tests nothing")
	}
	notes, err := Notes(path)
	if diff := cmp.Diff([]Note{{"PostDown", "echo down"}}, notes); diff != "" || err != nil {
		t.Errorf("notes: %v %s", err, diff)
	}
	for range 2 { // the second finds nothing to do
		if err := Recover(path); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(before, snapshot(t)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}

func TestConflictUndoes(t *testing.T) {
	newNamespace(t)
	shell(t, "ip route add 192.168.77.0/24 dev out")
	before := snapshot(t)
	dev := openDevice(t, "wgt0")
	j, _ := openTestJournal(t)
	_, err := Configure("wgt0", fullTunnel(), j)
	if err == nil || !strings.Contains(err.Error(), "192.168.77.0/24") || !strings.Contains(err.Error(), "(out)") {
		t.Errorf("got %v, want an error that names the route and its owner", err)
	}
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, snapshot(t)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Configure("absent", Config{}, nil); err == nil {
		t.Error("an absent interface was configured")
	}
}

func TestSetRoutes(t *testing.T) {
	newNamespace(t)
	openDevice(t, "wgt0")
	j, _ := openTestJournal(t)
	d, err := Configure("wgt0", Config{Addresses: prefixes("10.9.0.1/24"), Routes: prefixes("10.8.0.0/16", "10.7.0.0/16")}, j)
	if err != nil {
		t.Fatal(err)
	}
	partial := snapshot(t)
	for _, c := range []struct {
		routes []string
		main   string
		mark   uint32
	}{
		{[]string{"10.8.0.0/16", "10.6.0.0/16"}, "10.6.0.0/16 10.8.0.0/16 10.9.0.0/24", 0},
		{[]string{"10.8.0.0/16", "10.8.4.0/24"}, "10.8.0.0/16 10.9.0.0/24", 0},
		{[]string{"10.8.4.0/24"}, "10.8.4.0/24 10.9.0.0/24", 0},
		{[]string{"0.0.0.0/0", "::/0"}, "10.9.0.0/24", firstMark},
		{[]string{"10.7.0.0/16", "10.8.0.0/16"}, "10.7.0.0/16 10.8.0.0/16 10.9.0.0/24", firstMark},
	} {
		before := snapshot(t)
		mark, err := d.MarkFor(prefixes(c.routes...))
		if err != nil || mark != c.mark {
			t.Errorf("%v: mark beforehand: %d, %v, want %d", c.routes, mark, err, c.mark)
		}
		if diff := cmp.Diff(before, snapshot(t)); diff != "" {
			t.Errorf("%v: to ask for the mark changes the system:\n%s", c.routes, diff)
		}
		if err := d.SetRoutes(prefixes(c.routes...)); err != nil {
			t.Fatal(err)
		}
		if got := routesOf(t, "main"); got != c.main || d.FwMark() != c.mark {
			t.Errorf("%v: got %q, mark %d, want %q, mark %d", c.routes, got, d.FwMark(), c.main, c.mark)
		}
	}
	if diff := cmp.Diff(partial, snapshot(t)); diff != "" {
		t.Errorf("back to the first routes:\n%s", diff)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := d.SetRoutes(nil); err == nil {
		t.Error("SetRoutes after Close succeeded")
	}
	if _, err := d.MarkFor(nil); err == nil {
		t.Error("MarkFor after Close succeeded")
	}
}

// TestTwoFullTunnels checks that one tunnel leaves what the other needs.
func TestTwoFullTunnels(t *testing.T) {
	newNamespace(t)
	before := snapshot(t)
	openA, openB := openDevice(t, "wgt0"), openDevice(t, "a=b+c.d")
	ja, _ := openTestJournal(t)
	jb, _ := openTestJournal(t)
	c := Config{Addresses: prefixes("10.9.0.1/24"), Routes: prefixes("0.0.0.0/0")}
	a, err := Configure("wgt0", c, ja)
	if err != nil {
		t.Fatal(err)
	}
	c.Addresses = prefixes("10.10.0.1/24")
	b, err := Configure("a=b+c.d", c, jb)
	if err != nil {
		t.Fatal(err)
	}
	if w := b.Warnings(); len(w) > 0 || a.FwMark() == b.FwMark() {
		t.Errorf("warnings %v, marks %d and %d", w, a.FwMark(), b.FwMark())
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if got := shell(t, "sysctl -n net.ipv4.conf.all.src_valid_mark; ip route get 198.51.100.1; ip rule"); !strings.HasPrefix(got, "1\n") ||
		!strings.Contains(got, "a=b+c.d") || !strings.Contains(got, "suppress_prefixlength 0") {
		t.Errorf("what is left of the second tunnel: %s", got)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	_, _ = openA.Close(), openB.Close()
	shell(t, "sysctl -q net.ipv4.conf.all.src_valid_mark=0") // the first tunnel had to leave it
	if diff := cmp.Diff(before, snapshot(t)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}

// TestWithoutTools checks that DNS and the firewall are warnings, and that iptables serves where there is no nft.
func TestWithoutTools(t *testing.T) {
	newNamespace(t)
	openDevice(t, "wgt0")
	c := Config{Addresses: prefixes("10.9.0.1/24"), DNS: []netip.Addr{netip.MustParseAddr("10.9.0.53")}, Routes: prefixes("0.0.0.0/0")}
	t.Setenv("PATH", filepath.Join(t.TempDir(), "sbin"))
	d, err := Configure("wgt0", c, nil)
	if err != nil {
		t.Fatal(err)
	}
	if w := fmt.Sprint(d.Warnings()); len(d.Warnings()) != 2 || !strings.Contains(w, "DNS") || !strings.Contains(w, "nft") {
		t.Errorf("warnings: got %s, want one for DNS and one for the firewall", w)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}

	log := useTools(t, "iptables-restore", "resolvectl")
	dir := filepath.Dir(log)
	save := "#!/bin/sh\nprintf '%s\\n' '*raw' '-A PREROUTING -j ACCEPT' '-A PREROUTING -d 10.9.0.1/32 " + iptablesComment("wgt0") + " -j DROP' COMMIT\n"
	if err := os.WriteFile(filepath.Join(dir, "iptables-save"), []byte(save), 0o755); err != nil {
		t.Fatal(err)
	}
	shell(t, "for p in sh cat; do ln -s $(command -v $p) "+dir+"; done")
	t.Setenv("PATH", dir)
	if d, err = Configure("wgt0", c, nil); err != nil {
		t.Fatal(err)
	}
	if w := d.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %v", w)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(log)
	want := "resolvectl dns wgt0 10.9.0.53\nresolvectl domain wgt0 ~.\niptables-restore -n\n" + iptablesScript("wgt0", firstMark, []netip.Addr{netip.MustParseAddr("10.9.0.1")}) +
		"iptables-restore -n\n*raw\n-D PREROUTING -d 10.9.0.1/32 " + iptablesComment("wgt0") + " -j DROP\nCOMMIT\nresolvectl revert wgt0\n"
	if diff := cmp.Diff(want, string(text)); diff != "" || err != nil {
		t.Errorf("tools: %v\n%s", err, diff)
	}
}

func TestIPv6Disabled(t *testing.T) {
	newNamespace(t)
	shell(t, "sysctl -q net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
	openDevice(t, "wgt0")
	d, err := Configure("wgt0", fullTunnel(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if w := fmt.Sprint(d.Warnings()); len(d.Warnings()) != 1 || !strings.Contains(w, "IPv6 is disabled") {
		t.Errorf("warnings: got %s", w)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestMarkOfSystemTable(t *testing.T) {
	newNamespace(t)
	openDevice(t, "wgt0")
	shell(t, "ip link set wgt0 up && ip link set wgt0 down") // the first time changes the queueing for good
	before := snapshot(t)
	if _, err := Configure("wgt0", Config{FwMark: 254, Routes: prefixes("0.0.0.0/0")}, nil); err == nil {
		t.Error("a full tunnel through the main table was accepted")
	}
	if diff := cmp.Diff(before, snapshot(t)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}

// TestRecoverPersistent checks that Recover removes an interface that outlived its process, but no other kind of one.
func TestRecoverPersistent(t *testing.T) {
	newNamespace(t)
	before := snapshot(t)
	j, path := openTestJournal(t)
	shell(t, "ip tuntap add mode tun name wgt0")
	if _, err := Configure("wgt0", fullTunnel(), j); err != nil {
		t.Fatal(err)
	}
	link, err := net.InterfaceByName("out")
	if err != nil {
		t.Fatal(err)
	}
	if err := j.begin(step{Kind: stepLink, Interface: "out", Index: link.Index}); err != nil {
		t.Fatal(err)
	}
	if err := j.release(); err != nil { // as if the process had died
		t.Fatal(err)
	}
	if err := Recover(path); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, snapshot(t)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}
