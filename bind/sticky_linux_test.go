//go:build !wice_portable

package bind

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// askedBy returns an endpoint of b, from a batch that a sent to b's address from its own: the packets arrived there joined.
func askedBy(t *testing.T, a, b *testBind, from, to netip.Addr) (reply arrival) {
	t.Helper()
	const count = 40
	var bufs [][]byte
	for i := range count {
		bufs = append(bufs, transport(1000, uint32(i)))
	}
	if err := a.Send(bufs, newEndpoint(netip.AddrPortFrom(to, b.port), local{addr: from})); err != nil {
		t.Fatal(err)
	}
	for i := range count {
		got := b.next(t)
		if number(got.data) != uint32(i) || got.ep.SrcIP() != to || got.ep.DstIP() != from || i > 0 && got.ep != reply.ep {
			t.Fatalf("asked %s: packet %d is to be answered from %s to %s, want from %s to %s", to, number(got.data), got.ep.SrcIP(), got.ep.DstIP(), to, from)
		}
		reply = got
	}
	return reply
}

// answeredFrom sends a batch, and returns where a sees it come from.
func answeredFrom(t *testing.T, a, b *testBind, reply arrival) (from netip.Addr) {
	t.Helper()
	bufs := [][]byte{transport(1000, 0), transport(1000, 1), transport(1000, 2)}
	if err := b.Send(bufs, reply.ep); err != nil {
		t.Fatal(err)
	}
	for i := range bufs {
		got := a.next(t)
		if number(got.data) != uint32(i) || i > 0 && got.ep.DstIP() != from {
			t.Fatalf("got packet %d from %s, want %d, all from one address", number(got.data), got.ep.DstIP(), i)
		}
		from = got.ep.DstIP()
	}
	return from
}

// TestStickySourceComesAndGoes has the packets of both families answered from each of the addresses that they were sent to, while it is
// there, and from another one, without losing any, once it is gone. All arrive joined, which wireguard-go's own bind does not cope with.
func TestStickySourceComesAndGoes(t *testing.T) {
	inNamespace(t, func(d0, d1 netlink.Link) {
		lo, err := netlink.LinkByName("lo")
		if err := errors.Join(err, netlink.LinkSetUp(lo)); err != nil || !enableIPv6(t, d0, d1) {
			t.Error(err)
			return
		}
		for _, more := range []string{"192.0.2.7/24", "192.0.2.8/24", "2001:db8::7/64", "2001:db8::8/64"} {
			addLocal(t, d0, more)
		}
		a, b := openBind(t, Options{}), openBind(t, Options{})
		for _, f := range []struct {
			from  string
			asked []string
		}{
			{"192.0.2.1", []string{"192.0.2.7/24", "192.0.2.8/24"}},
			{"2001:db8::1", []string{"2001:db8::7/64", "2001:db8::8/64"}},
		} {
			from := netip.MustParseAddr(f.from)
			awaitLocal(t, from)
			expectJoined(t, a, from, netip.MustParsePrefix(f.asked[0]).Addr())
			replies := make(map[string]arrival)
			for _, s := range f.asked {
				asked := netip.MustParsePrefix(s).Addr()
				replies[s] = askedBy(t, a, b, from, asked)
				if got := answeredFrom(t, a, b, replies[s]); got != asked {
					t.Errorf("asked %s, answered from %s", asked, got)
				}
			}
			for _, s := range f.asked {
				gone, _ := netlink.ParseAddr(s)
				if err := netlink.AddrDel(d0, gone); err != nil {
					t.Errorf("remove %s: %v", s, err)
					return
				}
				got := answeredFrom(t, a, b, replies[s])
				if src := replies[s].ep.SrcIP(); got == netip.MustParsePrefix(s).Addr() || src.IsValid() {
					t.Errorf("%s is gone: answered from %s, and next from %s", s, got, src)
				}
			}
			// An address that is back is taken up again.
			addLocal(t, d0, f.asked[0])
			asked := netip.MustParsePrefix(f.asked[0]).Addr()
			if got := answeredFrom(t, a, b, askedBy(t, a, b, from, asked)); got != asked {
				t.Errorf("%s is back: answered from %s", asked, got)
			}
		}
	})
}

// addLocal adds an address, and waits for the kernel to deliver to it: for IPv6 it gets ready to do so in the background.
func addLocal(t *testing.T, l netlink.Link, prefix string) {
	t.Helper()
	if err := addAddr(l, prefix); err != nil {
		t.Fatal(err)
	}
	awaitLocal(t, netip.MustParsePrefix(prefix).Addr())
}

func awaitLocal(t *testing.T, a netip.Addr) {
	t.Helper()
	await(t, "delivery to "+a.String(), func() bool {
		routes, err := netlink.RouteGet(a.AsSlice())
		return err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL
	})
}

// expectJoined shows that what askedBy sends arrives as fewer datagrams than packets.
func expectJoined(t *testing.T, a *testBind, from, to netip.Addr) {
	t.Helper()
	quiet := New(Options{}) // nobody else receives from it
	defer quiet.Shutdown()
	_, port, err := quiet.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	var bufs [][]byte
	for i := range 40 {
		bufs = append(bufs, transport(1000, uint32(i)))
	}
	if err := a.Send(bufs, newEndpoint(netip.AddrPortFrom(to, port), local{addr: from})); err != nil {
		t.Fatal(err)
	}
	in := newArena()
	if err := quiet.socks.Load().forAddr(to).raw.Read(func(fd uintptr) bool { return in.fill(fd) != unix.EAGAIN }); err != nil {
		t.Fatal(err)
	}
	packets := 0
	for in.next(&quiet.stats) != nil {
		packets++
	}
	if packets <= in.got {
		t.Errorf("%d packets to %s arrived in %d datagrams: none are joined, and nothing is tested", packets, to, in.got)
	}
}

// TestSourceWithoutRoute answers what arrived through an interface that no route to the sender leads through: by the route that there is,
// as the kernel's WireGuard does. As soon as there is one through that interface, it is taken.
func TestSourceWithoutRoute(t *testing.T) {
	inNamespace(t, func(d0, d1 netlink.Link) {
		if !enableIPv6(t, d0, d1) { // the default routes are d1's
			return
		}
		b := New(Options{})
		defer b.Shutdown()
		if _, _, err := b.Open(0); err != nil {
			t.Error(err)
			return
		}
		t0, t1 := newTap(t, d0), newTap(t, d1)
		for _, c := range []struct{ src, dst string }{{"192.0.2.1", "203.0.113.9:9"}, {"2001:db8::1", "[2001:db8:ff::9]:9"}} {
			from, to := local{addr: netip.MustParseAddr(c.src), ifindex: int32(d0.Attrs().Index)}, netip.MustParseAddrPort(c.dst)
			plain, configured := newEndpoint(to, from), b.Peer(testKey(1))
			configured.SetPath(NewStaticPath(to))
			for _, ep := range []conn.Endpoint{plain, configured} {
				leaves := func(when string, want, other *tap) {
					t.Helper()
					configured.accept(sourceOf(to), from)
					plain.stick()
					for range 3 {
						if err := b.Send([][]byte{transport(64, 1)}, ep); err != nil {
							t.Errorf("%T to %s: %s: %v", ep, to, when, err)
						}
						if n, lost := want.sent(t), other.sent(t); n != 1 || lost != 0 {
							t.Errorf("%T to %s: %s: %d packets left through %s, %d through %s", ep, to, when, n, want.name, lost, other.name)
						}
					}
				}
				leaves("a route through the other interface", t1, t0)
				_, dst, _ := net.ParseCIDR(to.Addr().String() + "/" + fmt.Sprint(to.Addr().BitLen()))
				route := &netlink.Route{LinkIndex: d0.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK, Priority: 5000}
				if err := netlink.RouteAdd(route); err != nil {
					t.Error(err)
					return
				}
				ep.ClearSrc() // as WireGuard does when it repeats a handshake
				leaves("a route through both", t0, t1)
				if err := netlink.RouteDel(route); err != nil {
					t.Error(err)
					return
				}
				ep.ClearSrc()
				leaves("the route is gone", t1, t0)
			}
			b.RemovePeer(testKey(1))
		}
	})
}

// TestAnswerOnThisHost answers what another program on this host has sent from an address of another interface than the one it was sent to.
// The default routes lead through the latter.
func TestAnswerOnThisHost(t *testing.T) {
	inNamespace(t, func(d0, d1 netlink.Link) {
		lo, err := netlink.LinkByName("lo")
		if err := errors.Join(err, netlink.LinkSetUp(lo)); err != nil || !enableIPv6(t, d0, d1) {
			t.Error(err)
			return
		}
		a, b := openBind(t, Options{}), openBind(t, Options{})
		configured := b.Peer(testKey(1))
		for _, c := range []struct{ asks, asked string }{
			{"192.0.2.1", "198.51.100.1"},
			{"127.0.0.1", "198.51.100.1"},
			{"2001:db8::1", "2001:db8:1::1"},
			{"::1", "2001:db8:1::1"},
		} {
			asks, asked := netip.MustParseAddr(c.asks), netip.MustParseAddr(c.asked)
			awaitLocal(t, asks)
			awaitLocal(t, asked)
			for _, path := range []*Path{nil, NewStaticPath(netip.AddrPortFrom(asks, a.port))} {
				configured.SetPath(path)
				for range 2 { // the second one meets what the first answer has left
					reply := askedBy(t, a, b, asks, asked)
					if _, plain := reply.ep.(*Endpoint); plain == (path != nil) {
						t.Errorf("%s asks %s: it arrived with a %T", asks, asked, reply.ep)
					}
					if got := answeredFrom(t, a, b, reply); got != asked {
						t.Errorf("%s asks %s, and is answered from %s", asks, asked, got)
					}
				}
			}
		}
	})
}
