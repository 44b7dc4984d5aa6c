package natlab

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pion/turn/v4"
)

func TestNATBehaviour(t *testing.T) {
	eim := behaviour{EndpointIndependentMapping: true}
	tests := map[NAT]behaviour{
		None:              {EndpointIndependentMapping: true, FromOtherPort: true, FromOtherAddress: true},
		FullCone:          {EndpointIndependentMapping: true, FromOtherPort: true, FromOtherAddress: true},
		AddressRestricted: {EndpointIndependentMapping: true, FromOtherPort: true},
		PortRestricted:    eim,
		Symmetric:         {},
	}
	for kind, want := range tests {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			l := New(t, Config{A: Site{NAT: kind}})
			s := listenServers(t, l)
			if got := probe(t, s, l.A[0], 51820); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if kind == None {
				return
			}
			before := l.SiteA.WAN4()
			l.SiteA.Rebind()
			if l.SiteA.WAN4() == before {
				t.Errorf("got %v after rebinding, want another address", before)
			}
			if got := probe(t, s, l.A[0], 51820); got != want {
				t.Errorf("after rebinding: got %+v, want %+v", got, want)
			}
			l.SiteA.RebindPorts()
			if got := probe(t, s, l.A[0], 51820); got != want {
				t.Errorf("with other ports: got %+v, want %+v", got, want)
			}
		})
	}
}

// A hole that both sides punch at once opens between port restricted NATs, also
// when the first punch comes before the other side has sent anything.
func TestHolePunching(t *testing.T) {
	tests := []struct {
		a, b NAT
		want bool
	}{
		{PortRestricted, PortRestricted, true},
		{PortRestricted, Symmetric, false},
		{AddressRestricted, Symmetric, true},
		{Symmetric, Symmetric, false},
		{FullCone, Symmetric, true},
		{None, PortRestricted, true},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.a, " and ", test.b), func(t *testing.T) {
			t.Parallel()
			l := New(t, Config{A: Site{NAT: test.a}, B: Site{NAT: test.b}})
			server := listen(t, l.Server, l.Server.Addr4(), 3478)
			a := listen(t, l.A[0], l.A[0].Addr4(), 51820)
			b := listen(t, l.B[0], l.B[0].Addr4(), 51820)
			outA, outB := mapped(t, a, server), mapped(t, b, server)
			send(t, a, outB, "first") // early: B's side is still closed, or open and answered below
			send(t, b, outA, "punch")
			var got bool
			if payload, from := receive(t, a, 2*lost); payload != "" {
				// As ICE does: answer to where it came from (peer reflexive).
				send(t, a, from, "answer")
				for payload, _ := receive(t, b, arrives); payload != "" && !got; payload, _ = receive(t, b, lost) {
					got = payload == "answer"
				}
			} else {
				send(t, a, outB, "second")
				payload, _ := receive(t, b, 2*lost)
				got = payload != ""
			}
			if got != test.want {
				t.Errorf("a direct path: got %v, want %v", got, test.want)
			}
		})
	}
}

func TestRebindPorts(t *testing.T) {
	t.Parallel()
	l := New(t, Config{A: Site{NAT: PortRestricted, Hosts: 2}})
	server := listen(t, l.Server, l.Server.Addr4(), 3478)
	a := listen(t, l.A[0], l.A[0].Addr4(), 51820)
	before := mapped(t, a, server)
	l.SiteA.RebindPorts()
	after := mapped(t, a, server)
	if before.Addr() != after.Addr() || before.Port() == after.Port() {
		t.Errorf("got %v after %v, want another port of the same address", after, before)
	}
	send(t, server, before, "old")
	send(t, server, after, "new")
	if payload, _ := receive(t, a, arrives); payload != "new" {
		t.Errorf("got %q, want only what is sent to the new mapping", payload)
	}
	l.SiteA.RebindPorts()
	if again := mapped(t, a, server); again == after {
		t.Errorf("got %v twice", again)
	}
}

func TestTwoHostsBehindOneNAT(t *testing.T) {
	t.Parallel()
	for _, hairpin := range []bool{false, true} {
		l := New(t, Config{A: Site{NAT: FullCone, Hosts: 2, Hairpin: hairpin}})
		server := listen(t, l.Server, l.Server.Addr4(), 3478)
		a0 := listen(t, l.A[0], l.A[0].Addr4(), 51820)
		a1 := listen(t, l.A[1], l.A[1].Addr4(), 51820)
		out0, out1 := mapped(t, a0, server), mapped(t, a1, server)
		if out0 == out1 {
			t.Fatalf("both hosts are %v outside", out0)
		}
		send(t, a0, netip.AddrPortFrom(l.A[1].Addr4(), 51820), "lan")
		if payload, from := receive(t, a1, arrives); payload != "lan" || from.Addr() != l.A[0].Addr4() {
			t.Errorf("got %q from %v, want a packet of the LAN", payload, from)
		}
		send(t, a0, out1, "hairpin")
		payload, from := receive(t, a1, 2*lost)
		if got := payload == "hairpin"; got != hairpin {
			t.Errorf("hairpin %v: got %q from %v", hairpin, payload, from)
		}
		if hairpin && from.Addr() != l.SiteA.WAN4() {
			t.Errorf("hairpin: got a packet from %v, want it from outside", from)
		}
	}
}

func TestUDPBlocked(t *testing.T) {
	t.Parallel()
	l := New(t, Config{Family: DualStack, A: Site{NAT: UDPBlocked}})
	for _, addr := range []netip.Addr{l.Server.Addr4(), l.Server.Addr6()} {
		server := listen(t, l.Server, addr, 3478)
		own := l.A[0].Addr4()
		if addr.Is6() {
			own = l.A[0].Addr6()
		}
		a := listen(t, l.A[0], own, 0)
		send(t, a, server.LocalAddr().(*net.UDPAddr).AddrPort(), "blocked")
		if payload, _ := receive(t, server, lost); payload != "" {
			t.Errorf("%v: UDP gets through", addr)
		}
		for port, want := range map[uint16]bool{443: true, 80: false} {
			if got := dials(t, l.A[0], l.Server, netip.AddrPortFrom(addr, port)); got != want {
				t.Errorf("TCP to %v port %d: got %v, want %v", addr, port, got, want)
			}
		}
	}
}

// dials reports whether a TCP connection from one host to another comes about.
func dials(t *testing.T, from, to *Host, addr netip.AddrPort) bool {
	t.Helper()
	var ln net.Listener
	if err := to.Do(func() (err error) { ln, err = net.Listen("tcp", addr.String()); return err }); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	err := from.Do(func() error {
		c, err := net.DialTimeout("tcp", addr.String(), 3*lost)
		if err == nil {
			c.Close()
		}
		return err
	})
	return err == nil
}

func TestDoubleNAT(t *testing.T) {
	t.Parallel()
	l := New(t, Config{Family: DualStack, A: Site{NAT: FullCone, Outer: PortRestricted}, B: Site{NAT: PortRestricted, Outer: Symmetric}})
	s := listenServers(t, l)
	if got, want := probe(t, s, l.A[0], 51820), (behaviour{EndpointIndependentMapping: true}); got != want {
		t.Errorf("A: got %+v, want %+v", got, want)
	}
	if got := probe(t, s, l.B[0], 51820); got != (behaviour{}) {
		t.Errorf("B: got %+v, want all false", got)
	}
	a := listen(t, l.A[0], l.A[0].Addr4(), 0)
	if got := mapped(t, a, s.primary).Addr(); got != l.SiteA.Outer.WAN4() {
		t.Errorf("got %v outside, want the outer gateway's %v", got, l.SiteA.Outer.WAN4())
	}
	pings(t, l.A[0], l.B[0].Addr6(), true)
}

// pings checks whether ICMP echoes are answered. When they should be it tries
// for a while: after a change of links neighbours may be looked for in vain at first.
func pings(t *testing.T, h *Host, to netip.Addr, want bool, args ...string) {
	t.Helper()
	args = append([]string{"-c", "1", "-W", "0.5"}, append(args, to.String())...)
	var out []byte
	var err error
	for deadline := time.Now().Add(arrives); time.Now().Before(deadline); {
		out, err = h.Command(t.Context(), "ping", args...).CombinedOutput()
		if !want || err == nil {
			break
		}
	}
	if got := err == nil; got != want {
		t.Errorf("ping %v from %s: got %v, want %v: %v\n%s", to, h.Name, got, want, err, out)
	}
}

func TestFamilies(t *testing.T) {
	t.Parallel()
	t.Run("IPv6 only", func(t *testing.T) {
		t.Parallel()
		l := New(t, Config{Family: IPv6, A: Site{Firewall6: true}, B: Site{}})
		if l.A[0].Addr4().IsValid() || l.Server.Addr4().IsValid() {
			t.Error("an IPv4 address in an IPv6 world")
		}
		pings(t, l.A[0], l.Server.Addr6(), true)
		pings(t, l.A[0], l.B[0].Addr6(), true)
		pings(t, l.B[0], l.A[0].Addr6(), false)
		a := listen(t, l.A[0], l.A[0].Addr6(), 51820)
		b := listen(t, l.B[0], l.B[0].Addr6(), 51820)
		if got, want := mapped(t, a, b), netip.AddrPortFrom(l.A[0].Addr6(), 51820); got != want {
			t.Errorf("got %v outside, want %v", got, want)
		}
		send(t, b, netip.AddrPortFrom(l.A[0].Addr6(), 51820), "answer")
		if payload, _ := receive(t, a, arrives); payload != "answer" {
			t.Error("the firewall drops an answer")
		}
	})
	t.Run("IPv4 only", func(t *testing.T) {
		t.Parallel()
		l := New(t, Config{})
		out, err := l.A[0].Command(t.Context(), "ip", "-6", "addr").CombinedOutput()
		if err != nil || len(out) != 0 {
			t.Errorf("got %v, IPv6 addresses %q, want none", err, out)
		}
	})
	t.Run("one site without IPv6", func(t *testing.T) {
		t.Parallel()
		l := New(t, Config{Family: DualStack, A: Site{NAT: PortRestricted, NoIPv6: true}, B: Site{NAT: PortRestricted}})
		if l.A[0].Addr6().IsValid() || !l.B[0].Addr6().IsValid() {
			t.Errorf("got %v and %v", l.A[0].Addr6(), l.B[0].Addr6())
		}
		pings(t, l.A[0], l.Server.Addr4(), true)
		pings(t, l.B[0], l.Server.Addr4(), true)
		pings(t, l.B[0], l.Server.Addr6(), true)
	})
}

func TestRouterDropsPrivateSources(t *testing.T) {
	t.Parallel()
	l := New(t, Config{A: Site{NAT: PortRestricted}, B: Site{}})
	server := listen(t, l.Server, l.Server.Addr4(), 3478)
	err := l.B[0].Do(func() error { return ipBatch([]string{"addr add 192.168.77.1/32 dev lo"}) })
	if err != nil {
		t.Fatal(err)
	}
	b := listen(t, l.B[0], netip.MustParseAddr("192.168.77.1"), 0)
	send(t, b, server.LocalAddr().(*net.UDPAddr).AddrPort(), "private")
	send(t, listen(t, l.B[0], l.B[0].Addr4(), 0), server.LocalAddr().(*net.UDPAddr).AddrPort(), "public")
	if payload, from := receive(t, server, arrives); payload != "public" {
		t.Errorf("got %q from %v first, want the packet with the public source alone", payload, from)
	}
	pings(t, l.B[0], l.A[0].Addr4(), false)
}

func TestLANMulticast(t *testing.T) {
	t.Parallel()
	l := New(t, Config{Family: DualStack, LANOnly: true, A: Site{Hosts: 3}})
	if l.Server != nil || len(l.B) != 0 || len(l.A) != 3 {
		t.Fatalf("got server %v and %d, %d hosts", l.Server, len(l.A), len(l.B))
	}
	for _, group := range []string{"224.0.0.251", "ff02::fb"} {
		addr := netip.MustParseAddr(group)
		network := map[bool]string{true: "udp4", false: "udp6"}[addr.Is4()]
		var in *net.UDPConn
		err := l.A[1].Do(func() error {
			ifi, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			in, err = net.ListenMulticastUDP(network, ifi, &net.UDPAddr{IP: addr.AsSlice(), Port: 5353})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		own := l.A[0].Addr4()
		if addr.Is6() {
			own = l.A[0].Addr6()
			addr = addr.WithZone("eth0")
		}
		out := listen(t, l.A[0], own, 0)
		// The zone is a name in the host, so it is resolved there.
		if err := l.A[0].Do(func() error {
			_, err := out.WriteToUDPAddrPort([]byte("who is there"), netip.AddrPortFrom(addr, 5353))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if payload, from := receive(t, in, arrives); payload != "who is there" || from.Addr() != own {
			t.Errorf("%s: got %q from %v, want the packet from %v", group, payload, from, own)
		}
	}
}

// Two hosts on one cable reach each other, by both versions, and nothing else is there.
func TestCable(t *testing.T) {
	t.Parallel()
	l := New(t, Config{Family: DualStack, Cable: true})
	a, b := l.A[0], l.B[0]
	for _, addr := range [][2]netip.Addr{{a.Addr4(), b.Addr4()}, {a.Addr6(), b.Addr6()}} {
		c := listen(t, b, addr[1], 0)
		send(t, listen(t, a, addr[0], 0), c.LocalAddr().(*net.UDPAddr).AddrPort(), "there")
		if payload, from := receive(t, c, arrives); payload != "there" || from.Addr() != addr[0] {
			t.Errorf("got %q from %v, want a packet from %v", payload, from, addr[0])
		}
	}
	if l.Server != nil || l.SiteA != nil || len(l.nodes) != 2 {
		t.Errorf("got %d namespaces, want two", len(l.nodes))
	}
}

func TestLoss(t *testing.T) {
	t.Parallel()
	const sent = 2000
	l := New(t, Config{A: Site{NAT: PortRestricted, Loss: 2000}})
	server := listen(t, l.Server, l.Server.Addr4(), 3478)
	if err := server.SetReadBuffer(8 << 20); err != nil {
		t.Fatal(err)
	}
	count := func() int {
		a := listen(t, l.A[0], l.A[0].Addr4(), 0)
		var got int
		for i := range sent {
			send(t, a, server.LocalAddr().(*net.UDPAddr).AddrPort(), string(sequence(i)))
			if i%50 == 49 { // before the receive buffer is full
				for payload, _ := receive(t, server, lost/10); payload != ""; payload, _ = receive(t, server, lost/10) {
					got++
				}
			}
		}
		return got
	}
	// 20 % of 2000 is 400 with a standard deviation of 18: six of them either way.
	if got := sent - count(); got < 290 || got > 510 {
		t.Errorf("with a loss of 20 %%: %d of %d packets are lost", got, sent)
	}
	l.SiteA.SetLoss(0)
	if got := count(); got != sent {
		t.Errorf("with a loss of 0: %d of %d packets arrive", got, sent)
	}
}

func TestMTU(t *testing.T) {
	t.Parallel()
	for _, blockICMP := range []bool{false, true} {
		l := New(t, Config{Family: DualStack, A: Site{NAT: PortRestricted}})
		l.SiteA.SetMTU(1300, blockICMP)
		for _, to := range []netip.Addr{l.Server.Addr4(), l.Server.Addr6()} {
			pings(t, l.A[0], to, true, "-M", "do", "-s", "1200")
			out, err := l.A[0].Command(t.Context(), "ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1400", to.String()).CombinedOutput()
			if err == nil {
				t.Errorf("%v: a packet of 1400 bytes passes a link of 1300", to)
			}
			// The two programs' words for "fragmentation needed" and "packet too big" name the MTU.
			if told := strings.Contains(string(out), "1300"); told == blockICMP {
				t.Errorf("%v, ICMP blocked %v: got\n%s", to, blockICMP, out)
			}
		}
	}
}

func TestLinks(t *testing.T) {
	t.Parallel()
	l := New(t, Config{Family: DualStack, A: Site{}, B: Site{NAT: PortRestricted, Outer: FullCone}})
	check := func(want bool) {
		t.Helper()
		for _, h := range []*Host{l.A[0], l.B[0]} {
			pings(t, h, l.Server.Addr4(), want)
			pings(t, h, l.Server.Addr6(), want)
		}
	}
	check(true)
	l.SiteA.LinkDown()
	l.SiteB.LinkDown()
	check(false)
	l.SiteA.LinkUp()
	l.SiteB.LinkUp()
	check(true)
	l.A[0].LinkDown()
	l.B[0].LinkDown()
	check(false)
	l.A[0].LinkUp()
	l.B[0].LinkUp()
	check(true)
	old4, old6 := l.B[0].Addr4(), l.B[0].Addr6()
	l.A[0].Renumber()
	l.B[0].Renumber()
	if l.B[0].Addr4() == old4 || l.B[0].Addr6() == old6 {
		t.Errorf("got %v and %v again", old4, old6)
	}
	check(true)
}

// Two hosts each have their own /run and /etc, and the machine keeps its own.
func TestIsolation(t *testing.T) {
	t.Parallel()
	l := New(t, Config{A: Site{Hosts: 2}})
	const script = `mkdir -p /var/run/wireguard && echo "$1" > /var/run/wireguard/wg0.sock && echo "$1" > /etc/natlab-test && echo "$PWD $NATLAB_TEST"`
	dir := t.TempDir()
	for _, h := range l.A {
		cmd := h.Command(t.Context(), "sh", "-c", script, "sh", h.Name)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "NATLAB_TEST=kept", "PWD="+dir)
		out, err := cmd.CombinedOutput()
		if want := dir + " kept\n"; err != nil || string(out) != want {
			t.Errorf("got %v, %q, want %q", err, out, want)
		}
	}
	for _, h := range l.A {
		out, err := h.Command(t.Context(), "cat", "/run/wireguard/wg0.sock", "/etc/natlab-test").CombinedOutput()
		if want := h.Name + "\n" + h.Name + "\n"; err != nil || string(out) != want {
			t.Errorf("got %v, %q, want %q", err, out, want)
		}
		path, err := h.Path("/var/run/wireguard/wg0.sock")
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != h.Name+"\n" {
			t.Errorf("got %v, %q, want %s", err, b, h.Name)
		}
	}
	if _, err := os.Stat("/etc/natlab-test"); err == nil {
		t.Error("the machine has the host's file")
	}
}

func TestCommandGetsSignals(t *testing.T) {
	t.Parallel()
	l := New(t, Config{LANOnly: true})
	cmd := l.A[0].Command(t.Context(), "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || status.Signal() != syscall.SIGTERM {
		t.Errorf("got %v, want the signal", err)
	}
}

// Nothing is left of a lab: neither its namespaces nor what ran inside.
func TestCleanup(t *testing.T) {
	Need(t)
	t.Parallel()
	var name string
	var pid int
	t.Run("lab", func(t *testing.T) {
		l := New(t, Config{A: Site{NAT: Symmetric}})
		name = l.name
		out, err := l.A[0].Command(t.Context(), "sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!").Output()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(string(out), &pid); err != nil {
			t.Fatal(err)
		}
		if len(namespaces(t, name)) == 0 {
			t.Error("the lab has no namespaces")
		}
	})
	if got := namespaces(t, name); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(line), "sleep") {
		t.Errorf("process %d is left: %q", pid, line)
	}
}

func namespaces(t *testing.T, prefix string) []string {
	t.Helper()
	entries, err := os.ReadDir(namespaceDir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			found = append(found, e.Name())
		}
	}
	return found
}

// What a killed process leaves is removed by the next lab; what a living one has is not.
func TestSweep(t *testing.T) {
	Need(t)
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	start, err := startTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	owned := func(start string) namespace {
		return namespace{fmt.Sprintf("%s%d-%s-00000000-a0", namePrefix, cmd.Process.Pid, start)}
	}
	living, reused := owned(start), owned("1")
	if err := ipBatch([]string{"netns add " + living.name, "netns add " + reused.name}); err != nil {
		t.Fatal(err)
	}
	inside := exec.Command("ip", "netns", "exec", living.name, "sleep", "600")
	if err := inside.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = inside.Wait()
		close(ended)
	}()
	New(t, Config{LANOnly: true})
	if got, want := namespaces(t, living.name), []string{living.name}; !cmp.Equal(got, want) {
		t.Errorf("owner alive: got %v, want %v", got, want)
	}
	if got := namespaces(t, reused.name); len(got) != 0 {
		t.Errorf("pid used again: %v is left", got)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	New(t, Config{LANOnly: true})
	if got := namespaces(t, living.name); len(got) != 0 {
		t.Errorf("owner dead: %v is left", got)
	}
	select {
	case <-ended:
	case <-time.After(arrives):
		_ = inside.Process.Kill()
		t.Error("a process in a dead owner's namespace is left")
	}
}

func TestBadConfig(t *testing.T) {
	for _, site := range []Site{{Outer: Symmetric}, {LAN: netip.MustParsePrefix("10.0.0.0/28")}, {LAN: netip.MustParsePrefix("fd00::/64")}} {
		if err := new(Lab).build(Config{A: site}); err == nil {
			t.Errorf("%+v: got no error", site)
		}
	}
}

func TestCoTURN(t *testing.T) {
	t.Parallel()
	l := New(t, Config{Family: DualStack, A: Site{NAT: Symmetric}})
	s := CoTURN(t, l.Server, CoTURNOptions{TLSPort: 443})
	roots := x509.NewCertPool()
	if pem, err := os.ReadFile(s.CertFile); err != nil || !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("read %s: %v", s.CertFile, err)
	}
	for name, connect := range map[string]func() (net.PacketConn, error){
		"udp": func() (net.PacketConn, error) { return net.ListenPacket("udp4", "") },
		"tcp": func() (net.PacketConn, error) {
			c, err := net.Dial("tcp", netip.AddrPortFrom(s.Addr4, s.Port).String())
			return turn.NewSTUNConn(c), err
		},
		"tls": func() (net.PacketConn, error) {
			c, err := net.Dial("tcp", netip.AddrPortFrom(s.Addr4, s.TLSPort).String())
			return turn.NewSTUNConn(tls.Client(c, &tls.Config{RootCAs: roots, ServerName: s.Addr4.String()})), err
		},
	} {
		var conn net.PacketConn
		if err := l.A[0].Do(func() (err error) { conn, err = connect(); return err }); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		relays(t, l, s, conn)
		conn.Close()
	}
	// The client speaks IPv4 alone; over IPv6 the listeners must answer.
	if err := l.A[0].Do(func() error { return s.probe(CoTURNOptions{}) }); err != nil {
		t.Errorf("from %s: %v", l.A[0].Name, err)
	}
	s.Stop()
	s.Stop()
}

// relays sends a packet to B through the TURN server, and gets one back.
func relays(t *testing.T, l *Lab, s *TURN, conn net.PacketConn) {
	t.Helper()
	client, err := turn.NewClient(&turn.ClientConfig{
		TURNServerAddr: netip.AddrPortFrom(s.Addr4, s.Port).String(), Conn: conn, Username: s.Username, Password: s.Password, Realm: "natlab",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Listen(); err != nil {
		t.Fatal(err)
	}
	relay, err := client.Allocate()
	if err != nil {
		t.Errorf("allocate: %v\n%s", err, s.Log())
		return
	}
	defer relay.Close()
	b := listen(t, l.B[0], l.B[0].Addr4(), 0)
	if _, err := relay.WriteTo([]byte("there"), b.LocalAddr()); err != nil {
		t.Errorf("send through the relay: %v", err)
	}
	payload, from := receive(t, b, arrives)
	if payload != "there" || from.String() != relay.LocalAddr().String() {
		t.Errorf("got %q from %v, want a packet from the relay %v", payload, from, relay.LocalAddr())
		return
	}
	// While the client binds a channel, an answer may find neither it nor an indication ready.
	buf := make([]byte, 1500)
	var n int
	for range 10 {
		send(t, b, from, "back")
		if err := relay.SetReadDeadline(time.Now().Add(arrives / 10)); err != nil {
			t.Fatal(err)
		}
		if n, _, err = relay.ReadFrom(buf); err == nil {
			break
		}
	}
	if string(buf[:n]) != "back" {
		t.Errorf("got %q, %v, want the answer", buf[:n], err)
	}
}

func BenchmarkNew(b *testing.B) {
	for range b.N {
		b.StopTimer()
		l := &benchTB{TB: b}
		b.StartTimer()
		New(l, Config{Family: DualStack, A: Site{NAT: PortRestricted, Hosts: 2}, B: Site{NAT: Symmetric, Hosts: 2}})
		b.StopTimer()
		for _, f := range l.cleanups {
			f()
		}
	}
}

// benchTB runs the cleanups of one iteration when asked.
type benchTB struct {
	testing.TB
	cleanups []func()
}

func (b *benchTB) Cleanup(f func()) { b.cleanups = append(b.cleanups, f) }
