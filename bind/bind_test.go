package bind

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
)

func TestPortInUse(t *testing.T) {
	c := udpConn(t, "0.0.0.0:0")
	port := uint16(c.LocalAddr().(*net.UDPAddr).Port)
	b := New(Options{})
	_, _, err := b.Open(port)
	if !errors.Is(err, errAddrInUse) || !strings.Contains(err.Error(), fmt.Sprint(port)) || !strings.Contains(err.Error(), "ListenPort") {
		t.Errorf("got %v, want an error with the port and what to do", err)
	}
	if b.Port() != 0 {
		t.Errorf("port %d after a failure", b.Port())
	}
	// The failure leaves nothing behind.
	c.Close()
	if _, got, err := b.Open(port); err != nil || got != port {
		t.Errorf("got port %d, %v, want %d", got, err, port)
	}
	b.Shutdown()
}

func TestOpenTwice(t *testing.T) {
	b := openBind(t, Options{})
	if _, _, err := b.Open(0); err != conn.ErrBindAlreadyOpen {
		t.Errorf("got %v, want ErrBindAlreadyOpen", err)
	}
}

// TestFamilyMissing is about hosts without one of the families: the port is still that of the socket there is.
func TestFamilyMissing(t *testing.T) {
	for _, missing := range []string{"udp4", "udp6", "udp4 udp6"} {
		t.Run(missing, func(t *testing.T) {
			b := New(Options{})
			defer b.Shutdown()
			b.open = func(network string, port uint16, mark uint32) (*socket, error) {
				if strings.Contains(missing, network) {
					return nil, &net.OpError{Op: "listen", Err: os.NewSyscallError("socket", errFamily)}
				}
				return listen(network, port, mark)
			}
			fns, port, err := b.Open(0)
			if len(missing) > 4 {
				if !errors.Is(err, errFamily) {
					t.Errorf("got %v, want EAFNOSUPPORT", err)
				}
				return
			}
			if err != nil || port == 0 || len(fns) != 2 {
				t.Fatalf("got %d functions, port %d, %v", len(fns), port, err)
			}
			// Opening again on that port is what WireGuard does with each change.
			b.Close()
			if _, again, err := b.Open(port); err != nil || again != port {
				t.Errorf("got port %d, %v, want %d", again, err, port)
			}
			to := netip.MustParseAddrPort("127.0.0.1:9")
			if missing == "udp6" {
				to = netip.MustParseAddrPort("[::1]:9")
			}
			ep, _ := b.ParseEndpoint(to.String())
			err = b.Send([][]byte{transport(32, 0)}, ep)
			if wantErr := (missing == "udp4") == to.Addr().Is4(); wantErr != errors.Is(err, errFamily) {
				t.Errorf("send to %s: %v", to, err)
			}
		})
	}
}

// TestRetryOtherPort is about a port that is free for IPv4 and taken for IPv6.
func TestRetryOtherPort(t *testing.T) {
	b := New(Options{})
	defer b.Shutdown()
	failures := 3
	b.open = func(network string, port uint16, mark uint32) (*socket, error) {
		if network == "udp6" && failures > 0 {
			failures--
			return nil, []error{errAddrInUse, errReserved}[failures%2]
		}
		return listen(network, port, mark)
	}
	if _, port, err := b.Open(0); err != nil || port == 0 || failures != 0 {
		t.Errorf("got port %d, %v, %d failures left", port, err, failures)
	}
	b.Close()
	failures = 1 << 20
	if _, _, err := b.Open(0); !errors.Is(err, errAddrInUse) && !errors.Is(err, errReserved) {
		t.Errorf("got %v, want EADDRINUSE", err)
	}
	if used := 1<<20 - failures; used != maxPortTries {
		t.Errorf("%d tries, want %d", used, maxPortTries)
	}
}

// TestSendMany sends more packets in one call than the batch size, of sizes in any order, and expects every one, in order.
func TestSendMany(t *testing.T) {
	a, b := openBind(t, Options{}), openBind(t, Options{})
	ep := endpointTo(t, a, b.addr4())
	sizes := []int{1452, 1452, 1452, 100, 100, 1452, 32, 32, 32, 48, 1280, 60000, 33}
	var bufs [][]byte
	for i := range 3*batchSize + 7 {
		bufs = append(bufs, transport(sizes[i%len(sizes)], uint32(i)))
	}
	if err := a.Send(bufs, ep); err != nil {
		t.Fatal(err)
	}
	for i := range bufs {
		if got := b.next(t); number(got.data) != uint32(i) || len(got.data) != len(bufs[i]) {
			t.Fatalf("got packet %d of %d bytes, want %d of %d", number(got.data), len(got.data), i, len(bufs[i]))
		}
	}
}

func TestSendEdges(t *testing.T) {
	b := New(Options{})
	ep, err := b.ParseEndpoint("127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Send([][]byte{transport(32, 0)}, ep); err != net.ErrClosed {
		t.Errorf("closed: got %v, want net.ErrClosed", err)
	}
	if _, _, err := b.Open(0); err != nil {
		t.Fatal(err)
	}
	defer b.Shutdown()
	if err := b.Send(nil, ep); err != nil {
		t.Errorf("nothing to send: %v", err)
	}
	if err := b.Send([][]byte{{}, {}}, ep); err != nil {
		t.Errorf("empty packets: %v", err)
	}
	none, err := b.ParseEndpoint(NoEndpoint)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Send([][]byte{transport(32, 0)}, none); err != nil || b.Stats().NoPath != 1 {
		t.Errorf("no endpoint: got %v, %+v", err, b.Stats())
	}
	if err := b.Send(nil, &conn.StdNetEndpoint{}); err != conn.ErrWrongEndpointType {
		t.Errorf("foreign endpoint: got %v, want ErrWrongEndpointType", err)
	}
	for _, s := range []string{"", "example.org:1", "127.0.0.1", "127.0.0.1:99999", "[::1]"} {
		if _, err := b.ParseEndpoint(s); err == nil {
			t.Errorf("ParseEndpoint(%q) succeeded", s)
		}
	}
	if ep, err := b.ParseEndpoint("[::ffff:192.0.2.1]:5"); err != nil || ep.DstToString() != "192.0.2.1:5" {
		t.Errorf("got %v, %v: mapped addresses are to be unmapped", ep, err)
	}
}

// TestTooLong receives datagrams that are longer than the room for them, which Windows reports as errors: they are skipped.
func TestTooLong(t *testing.T) {
	b := New(Options{})
	defer b.Shutdown()
	fns, port, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	stranger, server := udpConn(t, "127.0.0.1:0"), udpConn(t, "127.0.0.1:0")
	send := func(c *net.UDPConn, to netip.AddrPort, p []byte) {
		t.Helper()
		if _, err := c.WriteToUDPAddrPort(p, to); err != nil {
			t.Fatal(err)
		}
	}
	long := make([]byte, 20_000)
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	for range 3 {
		send(stranger, to, long)
	}
	send(stranger, to, transport(64, 7))
	bufs, sizes, eps := [][]byte{make([]byte, 2000)}, make([]int, 1), make([]conn.Endpoint, 1)
	if n, err := fns[0](bufs, sizes, eps); n != 1 || err != nil || sizes[0] != 64 || number(bufs[0]) != 7 {
		t.Errorf("got %d packets, the first of %d bytes, %v", n, sizes[0], err)
	}

	turn, err := b.ListenTURN("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer turn.Close()
	if _, err := turn.WriteTo([]byte("hello"), server.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	at := turn.LocalAddr().(*net.UDPAddr).AddrPort()
	send(stranger, at, long)
	send(server, at, bindingRequest(t))
	if n, _, err := turn.ReadFrom(bufs[0]); err != nil || n != stunHeaderSize {
		t.Errorf("TURN client: got %d bytes, %v", n, err)
	}
}

// TestNoAllocations is the promise of the hot paths: of both kinds of endpoints, in both families, both ways, for a packet and for many.
func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	addrs := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	if a, ok := linkLocal(); ok {
		addrs = append(addrs, a)
	}
	for i, addr := range addrs {
		for _, count := range []int{1, batchSize, 2 * batchSize} {
			t.Run(fmt.Sprintf("%s/%d", addr, count), func(t *testing.T) { checkAllocations(t, min(i, 1), addr, count) })
		}
	}
}

// linkLocal returns a link-local address of this host with its zone, if there is one that is in use: not one that is still looked for
// elsewhere.
func linkLocal() (netip.Addr, bool) {
	for _, h := range hostAddrs() {
		if !h.addr.Is6() || !h.addr.IsLinkLocalUnicast() {
			continue
		}
		a := h.addr.WithZone(h.iface)
		if c, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0))); err == nil {
			c.Close()
			return a, true
		}
	}
	return netip.Addr{}, false
}

// end is one side of a conversation whose receiving is the test's.
type end struct {
	*Bind
	at      netip.AddrPort
	receive conn.ReceiveFunc
}

func newEnd(t *testing.T, family int, addr netip.Addr) *end {
	t.Helper()
	b := New(Options{})
	t.Cleanup(func() { b.Shutdown() })
	fns, port, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	return &end{Bind: b, at: netip.AddrPortFrom(addr, port), receive: fns[family]}
}

func checkAllocations(t *testing.T, family int, addr netip.Addr, count int) {
	a, b := newEnd(t, family, addr), newEnd(t, family, addr)
	bufs, sizes, eps := newBatch(batchSize)
	out := make([][]byte, count)
	for i := range out {
		out[i] = transport(1452, uint32(i))
	}
	pass := func(from, to *end, ep conn.Endpoint) {
		if err := from.Send(out, ep); err != nil {
			t.Fatal(err)
		}
		for got := 0; got < count; {
			n, err := to.receive(bufs, sizes, eps)
			if err != nil {
				t.Fatal(err)
			}
			got += n
		}
	}
	// Each answer goes where the packet came from, as WireGuard's does.
	round := func(ep conn.Endpoint) {
		pass(a, b, ep)
		pass(b, a, eps[0])
	}
	check := func(name string, ep conn.Endpoint) {
		round(ep) // fills caches and pools
		if n := testing.AllocsPerRun(50, func() { round(ep) }); n > 0 {
			t.Errorf("%s: %v allocations per round of %d packets, want 0", name, n, 2*count)
		}
	}
	plain, err := a.ParseEndpoint(b.at.String())
	if err != nil {
		t.Fatal(err)
	}
	peer := a.Peer(testKey(1))
	peer.SetPath(NewStaticPath(b.at))
	check("configured path", peer)
	a.RemovePeer(testKey(1))
	check("plain", plain)
	if _, ok := eps[0].(*Endpoint); !ok {
		t.Errorf("got a %T, want a plain endpoint", eps[0])
	}
	peer = a.Peer(testKey(1))
	peer.SetPath(NewDirectPath(addr, b.at))
	check("direct path", peer)
	if eps[0] != conn.Endpoint(peer) {
		t.Errorf("got %v, want the peer's endpoint", eps[0])
	}
	known := b.Peer(testKey(2))
	known.SetPath(NewDirectPath(addr, a.at))
	check("direct path both ways", peer)
	pass(a, b, peer)
	if eps[0] != conn.Endpoint(known) {
		t.Errorf("got %v, want the peer's endpoint", eps[0])
	}
}
