//go:build !wice_portable

package bind

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// knowsLocal says that the system tells at which address a packet arrived.
const knowsLocal = true

// joins says that the socket sends packets that the system joins.
const joins = true

func disableGSO(s *socket) { s.gso.Store(false) }

// TestStickySourceOfJoinedPackets: wireguard-go's own bind loses the control message when it cuts joined packets, so that it never
// answers from the address that it was asked at.
func TestStickySourceOfJoinedPackets(t *testing.T) {
	a, b := openBind(t, Options{}), openBind(t, Options{})
	if !a.socks.Load().v4.gso.Load() {
		t.Log("no UDP_SEGMENT here: the packets arrive one by one")
	}
	asked := netip.MustParseAddr("127.0.0.7")
	ep := endpointTo(t, a, netip.AddrPortFrom(asked, b.port))
	var bufs [][]byte
	for i := range 40 {
		bufs = append(bufs, transport(1000, uint32(i)))
	}
	if err := a.Send(bufs, ep); err != nil {
		t.Fatal(err)
	}
	var reply conn.Endpoint
	for i := range bufs {
		got := b.next(t)
		if got.ep.SrcIP() != asked || reply != nil && got.ep != reply {
			t.Fatalf("packet %d: source %s of %p, want %s of %p", i, got.ep.SrcIP(), got.ep, asked, reply)
		}
		reply = got.ep
	}
	if err := b.Send([][]byte{transport(64, 1)}, reply); err != nil {
		t.Fatal(err)
	}
	if got := a.next(t); got.ep.DstIP() != asked {
		t.Errorf("the answer is from %s, want %s", got.ep.DstIP(), asked)
	}
	// A plain peer of the configuration that is now asked at another address: WireGuard is to decide.
	e := b.Peer(testKey(1))
	e.SetPath(NewStaticPath(a.addr4()))
	for i, want := range []bool{true, false, true} {
		to := []string{"127.0.0.7", "127.0.0.8", "127.0.0.7"}[i]
		if err := a.Send(bufs[:1], endpointTo(t, a, netip.AddrPortFrom(netip.MustParseAddr(to), b.port))); err != nil {
			t.Fatal(err)
		}
		if got := b.next(t); (got.ep == conn.Endpoint(e)) != want || got.ep.SrcIP() != netip.MustParseAddr(to) {
			t.Errorf("asked at %s: got %T from %s", to, got.ep, got.ep.SrcIP())
		}
	}
}

// TestLeftovers receives joined packets with less room than there are packets.
func TestLeftovers(t *testing.T) {
	a, b := openBind(t, Options{}), New(Options{})
	fns, port, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Shutdown()
	const n = 200
	var out [][]byte
	for i := range n {
		out = append(out, transport(900, uint32(i)))
	}
	ep := endpointTo(t, a, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	for _, gso := range []bool{true, false} {
		if !gso {
			disableGSO(a.socks.Load().v4)
		}
		if err := a.Send(out, ep); err != nil {
			t.Fatal(err)
		}
		for _, room := range []int{7, 1, 31, batchSize} {
			bufs, sizes, eps := newBatch(room)
			got, err := fns[0](bufs, sizes, eps)
			if err != nil || got == 0 || got > room {
				t.Fatalf("got %d of %d, %v", got, room, err)
			}
		}
		next := uint32(7 + 1 + 31 + batchSize)
		bufs, sizes, eps := newBatch(batchSize)
		for next < n {
			got, err := fns[0](bufs, sizes, eps)
			if err != nil {
				t.Fatal(err)
			}
			for i := range got {
				if sizes[i] != 900 || number(bufs[i]) != next || eps[i] == nil {
					t.Fatalf("got packet %d of %d bytes, want %d", number(bufs[i]), sizes[i], next)
				}
				next++
			}
		}
	}
}

// TestBadSource sends from an address that is not ours.
func TestBadSource(t *testing.T) {
	a, b := openBind(t, Options{}), openBind(t, Options{})
	for _, c := range []struct {
		src string
		to  netip.AddrPort
	}{{"203.0.113.9", b.addr4()}, {"2001:db8::9", b.addr6()}} {
		bad := local{addr: netip.MustParseAddr(c.src)}
		e := newEndpoint(c.to, bad)
		if err := a.Send([][]byte{transport(64, 1), transport(64, 2)}, e); err != nil {
			t.Errorf("%s: %v", c.src, err)
		}
		b.next(t)
		b.next(t)
		if e.SrcIP().IsValid() {
			t.Errorf("%s is still the source", c.src)
		}
		// ICE's own checks are about this address and no other.
		strict := newEndpoint(c.to, bad)
		strict.strict = true
		if err := a.Send([][]byte{transport(64, 3)}, strict); err == nil {
			t.Errorf("%s: sent from elsewhere", c.src)
		}
	}
}

// TestRepairs has the kernel refuse what it can't be made to refuse here.
func TestRepairs(t *testing.T) {
	a, b := openBind(t, Options{}), openBind(t, Options{})
	s := a.socks.Load().v4
	s.gso.Store(true)
	ep := endpointTo(t, a, b.addr4()).(*Endpoint)
	bufs := [][]byte{transport(64, 0), transport(64, 1), transport(64, 2)}
	try := func(refuse func(c *sender) unix.Errno) (int, error) {
		c := &sender{ep: ep}
		c.call = func(fd uintptr) {
			if c.errno = refuse(c); c.errno == 0 {
				c.sendmmsg(fd)
			} else {
				c.sent = 0
			}
		}
		return c.batch(s, bufs)
	}
	arrive := func() {
		t.Helper()
		for i := range bufs {
			if got := b.next(t); number(got.data) != uint32(i) {
				t.Errorf("got packet %d, want %d", number(got.data), i)
			}
		}
	}
	joined := func(errno unix.Errno) func(c *sender) unix.Errno {
		return func(c *sender) unix.Errno {
			if c.segmented() {
				return errno
			}
			return 0
		}
	}
	for _, errno := range []unix.Errno{unix.EMSGSIZE, unix.EINVAL, unix.EIO} {
		if !s.gso.Load() {
			t.Fatalf("joining is off before %v", errno)
		}
		if _, err := try(joined(errno)); err != nil {
			t.Errorf("%v: %v", errno, err)
		}
		arrive()
	}
	if s.gso.Load() {
		t.Error("the card can't join packets, and they are joined")
	}
	if dropped, err := try(func(*sender) unix.Errno { return unix.EAGAIN }); err != nil || dropped != len(bufs) {
		t.Errorf("full buffer: got %d dropped, %v", dropped, err)
	}
	if _, err := try(func(*sender) unix.Errno { return unix.EPERM }); err != unix.EPERM {
		t.Errorf("got %v, want EPERM", err)
	}
}

func TestOffloadSwitch(t *testing.T) {
	t.Setenv("WICE_UDP_OFFLOAD", "off")
	a, b := openBind(t, Options{}), openBind(t, Options{})
	if a.socks.Load().v4.gso.Load() {
		t.Error("joining is on")
	}
	b.socks.Load().v4.raw.Control(func(fd uintptr) {
		if on, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO); err == nil && on != 0 {
			t.Error("UDP_GRO is on")
		}
	})
	if err := a.Send([][]byte{transport(64, 0), transport(64, 1)}, endpointTo(t, a, b.addr4())); err != nil {
		t.Fatal(err)
	}
	b.next(t)
	b.next(t)
}

// TestFullBuffer checks that Send gives up when the socket's buffer stays full. The kernel gives the socket its space back when the
// packets are received, which nobody does here.
func TestFullBuffer(t *testing.T) {
	a := openBind(t, Options{})
	quiet := New(Options{})
	_, port, err := quiet.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer quiet.Shutdown()
	a.socks.Load().v4.raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 1) })
	ep := endpointTo(t, a, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	var bufs [][]byte
	for i := range batchSize {
		bufs = append(bufs, transport(20000, uint32(i)))
	}
	if err := a.Send(bufs, ep); err != nil {
		t.Errorf("a full buffer is an error: %v", err)
	}
	if d := a.Stats().SendFull; d > uint64(len(bufs)) {
		t.Errorf("%d packets dropped of %d", d, len(bufs))
	}
}

func TestControlMessages(t *testing.T) {
	for _, l := range []local{{netip.MustParseAddr("192.0.2.1"), 3}, {netip.MustParseAddr("2001:db8::1"), 4}} {
		var c control
		n := c.putSource(0, &l)
		n = c.putSegmentSize(n, 1452)
		if n > controlSize {
			t.Fatalf("%d bytes do not fit %d", n, controlSize)
		}
		// What is sent as UDP_SEGMENT arrives as UDP_GRO.
		(*unix.Cmsghdr)(unsafe.Pointer(&c.bytes()[n-unix.CmsgSpace(2)])).Type = unix.UDP_GRO
		if got, segment := c.parse(n); segment != 1452 || got.ifindex != l.ifindex || got.addr != l.addr {
			t.Errorf("got %+v, %d", got, segment)
		}
		for cut := range n {
			c.parse(cut) // must not panic
		}
	}
	for _, s := range []string{"192.0.2.1:1", "[2001:db8::1]:65535", "[fe80::1%2]:9"} {
		ap := netip.MustParseAddrPort(s)
		sa := encodeSockaddr(ap)
		if got := decodeSource(&sa.raw); got != sourceOf(ap) {
			t.Errorf("%s: got %s", s, got.addrPort())
		}
	}
}

func FuzzControlMessages(f *testing.F) {
	var c control
	l := local{netip.MustParseAddr("2001:db8::1"), 4}
	n := c.putSegmentSize(c.putSource(0, &l), 1452)
	f.Add(append([]byte(nil), c.bytes()[:n]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var c control
		copy(c.bytes(), b)
		c.parse(len(b))
	})
}

// inNamespace runs f in a network namespace of its own with two interfaces, d0 and d1, that swallow what is sent.
func inNamespace(t *testing.T, f func(d0, d1 netlink.Link)) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and the namespace with the thread
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		// Without IPv6 nothing but the test sends anything. The sockets have to cope with that too.
		for _, name := range []string{"all", "default"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0o644); err != nil {
				t.Logf("disable IPv6: %v", err)
			}
		}
		var links []netlink.Link
		for _, l := range []struct{ name, addr string }{{"d0", "192.0.2.1/24"}, {"d1", "198.51.100.1/24"}} {
			veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: l.name, MTU: 1300}, PeerName: "far-" + l.name}
			addr, _ := netlink.ParseAddr(l.addr)
			if err := netlink.LinkAdd(veth); err != nil {
				t.Errorf("make %s: %v", l.name, err)
				return
			}
			far, err := netlink.LinkByName(veth.PeerName)
			if err := errors.Join(err, netlink.LinkSetUp(far), netlink.LinkSetARPOff(veth), netlink.AddrAdd(veth, addr), netlink.LinkSetUp(veth)); err != nil {
				t.Errorf("set %s up: %v", l.name, err)
				return
			}
			links = append(links, veth)
		}
		f(links[0], links[1])
	}()
	<-done
}

// tap sees what leaves through an interface.
type tap struct {
	name string
	fd   int
}

func newTap(t *testing.T, l netlink.Link) *tap {
	t.Helper()
	all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}); err != nil {
		t.Fatal(err)
	}
	return &tap{l.Attrs().Name, fd}
}

// sent returns the number of UDP packets that have left since the last call. The kernel's own, of IPv6's neighbour discovery, do not count.
func (p *tap) sent(t *testing.T) (n int) {
	t.Helper()
	b := make([]byte, 1<<16)
	for {
		size, from, err := unix.Recvfrom(p.fd, b, 0)
		if errors.Is(err, unix.EAGAIN) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		if from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING || size < 20 {
			continue
		}
		if b[0]>>4 == 4 && b[9] == unix.IPPROTO_UDP || b[0]>>4 == 6 && b[6] == unix.IPPROTO_UDP {
			n++
		}
	}
}

// TestLongerThanPath sends joined packets that are longer than the path's MTU: the kernel refuses to cut them into such pieces, but
// would fragment them one by one.
func TestLongerThanPath(t *testing.T) {
	inNamespace(t, func(d0, _ netlink.Link) {
		b := New(Options{})
		defer b.Shutdown()
		if _, _, err := b.Open(0); err != nil {
			t.Error(err)
			return
		}
		ep, _ := b.ParseEndpoint("192.0.2.2:9")
		out := newTap(t, d0)
		var bufs [][]byte
		for i := range 10 {
			bufs = append(bufs, transport(1452, uint32(i)))
		}
		if err := b.Send(bufs, ep); err != nil {
			t.Errorf("send: %v", err)
		}
		if n := out.sent(t); n < 20 {
			t.Errorf("%d packets left, want 20 fragments", n)
		}
		if !b.socks.Load().v4.gso.Load() {
			t.Error("one path's MTU has turned joining off for all")
		}
	})
}

// TestMark checks that a marked packet with a given source takes the route of the mark, with sockets opened before and after.
func TestMark(t *testing.T) {
	inNamespace(t, func(d0, d1 netlink.Link) {
		const mark, table = 0x7769, 100
		rule := netlink.NewRule()
		rule.Mark, rule.Table, rule.Priority = mark, table, 10
		to := netip.MustParseAddrPort("203.0.113.1:9")
		route := &netlink.Route{LinkIndex: d1.Attrs().Index, Table: table, Scope: netlink.SCOPE_LINK}
		route.Dst, _ = netlink.ParseIPNet("203.0.113.0/24")
		if err := errors.Join(netlink.RuleAdd(rule), netlink.RouteAdd(route)); err != nil {
			t.Errorf("make route: %v", err)
			return
		}
		b := New(Options{})
		defer b.Shutdown()
		if _, port, err := b.Open(0); err != nil || port == 0 {
			t.Errorf("open without IPv6: got port %d, %v", port, err)
			return
		}
		pinned := b.Peer(testKey(1))
		pinned.SetPath(NewDirectPath(netip.MustParseAddr("192.0.2.1"), to)) // an address of d0
		packet := [][]byte{transport(64, 1)}
		if err := b.Send(packet, pinned); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("without the mark: got %v, want ENETUNREACH", err)
		}
		pinned.SetPath(NewDirectPath(netip.MustParseAddr("192.0.2.1"), to))
		if err := b.SetMark(mark); err != nil {
			t.Errorf("set mark: %v", err)
		}
		marked := newTap(t, d1)
		for range 2 {
			if err := b.Send(packet, pinned); err != nil {
				t.Errorf("with the mark: %v", err)
			}
			if n := marked.sent(t); n != 1 {
				t.Errorf("%d packets left through the route of the mark, want 1", n)
			}
			if pinned.SrcIP() != netip.MustParseAddr("192.0.2.1") {
				t.Errorf("source %s", pinned.SrcIP())
			}
			b.Close()
			b.Open(0)
		}
		// Foreign sockets get it too, those that were there before as well, until they are closed.
		var conns []*net.UDPConn
		for _, mark := range []int{mark, 0, 0x7770} {
			if err := b.SetMark(uint32(mark)); err != nil {
				t.Errorf("set mark %#x: %v", mark, err)
			}
			c := udpConn(t, "192.0.2.1:0")
			raw, _ := c.SyscallConn()
			if err := b.ControlSocket("udp4", "", raw); err != nil {
				t.Errorf("control: %v", err)
			}
			conns = append(conns, c)
			for i, c := range conns {
				raw, _ := c.SyscallConn()
				raw.Control(func(fd uintptr) {
					if got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK); got != mark {
						t.Errorf("socket %d: mark %#x, %v, want %#x", i, got, err, mark)
					}
				})
			}
		}
		conns[0].Close()
		if err := b.SetMark(1); err != nil || len(b.others.conns) != len(conns)-1 {
			t.Errorf("a closed socket: %v, %d are remembered", err, len(b.others.conns))
		}
		for range 10 * minForeign {
			c := udpConn(t, "192.0.2.1:0")
			raw, _ := c.SyscallConn()
			if err := b.ControlSocket("udp4", "", raw); err != nil {
				t.Errorf("control: %v", err)
			}
			c.Close()
		}
		if n := len(b.others.conns); n > minForeign {
			t.Errorf("%d sockets are remembered, want no more than %d", n, minForeign)
		}
	})
}

// enableIPv6 gives the interfaces of inNamespace addresses and d1 the routes to everywhere; false if that can't be.
func enableIPv6(t *testing.T, d0, d1 netlink.Link) bool {
	t.Helper()
	for _, name := range []string{"all", "default", "d0", "d1"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("0"), 0o644); err != nil {
			t.Logf("enable IPv6: %v", err)
			return false
		}
	}
	err := errors.Join(addAddr(d0, "2001:db8::1/64"), addAddr(d1, "2001:db8:1::1/64"))
	for _, s := range []string{"0.0.0.0/0", "::/0"} {
		_, dst, _ := net.ParseCIDR(s)
		err = errors.Join(err, netlink.RouteAdd(&netlink.Route{LinkIndex: d1.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}))
	}
	if err != nil {
		t.Error(err)
	}
	return err == nil
}

// addAddr adds an address that can be used at once.
func addAddr(l netlink.Link, prefix string) error {
	addr, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	if addr.IP.To4() == nil {
		addr.Flags = unix.IFA_F_NODAD
	}
	return netlink.AddrAdd(l, addr)
}

// TestLostSource answers from addresses that go away, by themselves or with their interface, and expects every packet to leave all the
// same, from another address and from then on.
func TestLostSource(t *testing.T) {
	prefixes := []string{"192.0.2.1/24", "2001:db8::1/64"}
	inNamespace(t, func(d0, d1 netlink.Link) {
		if !enableIPv6(t, d0, d1) {
			return
		}
		b := New(Options{})
		defer b.Shutdown()
		if _, _, err := b.Open(0); err != nil {
			t.Error(err)
			return
		}
		// A path of ICE has no interface: it stays as long as its address is anybody's.
		check := func(what string, stuck, stuckICE bool) {
			for i, to := range []string{"192.0.2.2:9", "[2001:db8::2]:9"} {
				to := netip.MustParseAddrPort(to)
				from := local{addr: netip.MustParsePrefix(prefixes[i]).Addr(), ifindex: int32(d0.Attrs().Index)}
				configured, ice := b.Peer(testKey(1)), b.Peer(testKey(2))
				configured.SetPath(NewStaticPath(to))
				configured.accept(sourceOf(to), from)
				ice.SetPath(NewDirectPath(from.addr, to))
				for name, ep := range map[string]conn.Endpoint{"plain": newEndpoint(to, from), "configured": configured, "ICE": ice} {
					if ep.SrcIP() != from.addr {
						t.Errorf("%s: %s: source %s, want %s", what, name, ep.SrcIP(), from.addr)
					}
					if err := b.Send([][]byte{transport(64, 1), transport(64, 2)}, ep); err != nil {
						t.Errorf("%s: %s: %v", what, name, err)
					}
					want := stuck
					if name == "ICE" {
						want = stuckICE
					}
					if got := ep.SrcIP().IsValid(); got != want {
						t.Errorf("%s: %s: source %s, want one %t", what, name, from.addr, want)
					}
				}
				b.RemovePeer(testKey(1))
				b.RemovePeer(testKey(2))
			}
		}
		check("all there", true, true)
		for _, p := range prefixes {
			addr, _ := netlink.ParseAddr(p)
			if err := netlink.AddrDel(d0, addr); err != nil {
				t.Errorf("remove %s: %v", p, err)
				return
			}
		}
		check("address gone", false, false)
		if err := netlink.LinkDel(d0); err != nil {
			t.Errorf("remove %s: %v", d0.Attrs().Name, err)
			return
		}
		check("interface gone", false, false)
		// As when a modem has dialled again.
		if err := errors.Join(addAddr(d1, prefixes[0]), addAddr(d1, prefixes[1])); err != nil {
			t.Error(err)
			return
		}
		check("address on another interface", false, true)
	})
}
