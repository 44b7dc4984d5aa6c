package bind

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
)

// elsewhere is an address of IPv6 that nobody has and that never leaves this host. It shares no byte with ::1 but zeros.
func elsewhere(t *testing.T) netip.AddrPort {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 {
			return netip.AddrPortFrom(netip.MustParseAddr("fe80::2").WithZone(i.Name), 9)
		}
	}
	t.Fatal("no loopback interface")
	panic("unreachable")
}

// TestAlternatingFamilies sends to both families in turn, and expects each packet where it was sent to. In wireguard-go's own bind an
// address buffer is shared, and keeps the length of IPv4 addresses when one of IPv6 is copied into it: the rest is that of the last IPv6
// address. So what is sent to ::1 behind IPv4 is lost, but only if that last one was another address.
func TestAlternatingFamilies(t *testing.T) {
	a := openBind(t, Options{})
	ends := []*testBind{openBind(t, Options{}), openBind(t, Options{})}
	nobody := endpointTo(t, a, elsewhere(t))
	n := uint32(0)
	send := func(end *testBind, v6 bool, count int) {
		t.Helper()
		to := end.addr4()
		if v6 {
			to = end.addr6()
		}
		bufs := make([][]byte, count)
		for i := range bufs {
			bufs[i] = transport(64, n+uint32(i))
		}
		if err := a.Send(bufs, endpointTo(t, a, to)); err != nil {
			t.Fatal(err)
		}
		for range bufs {
			got := end.next(t)
			if number(got.data) != n || got.ep.DstToString() != netip.AddrPortFrom(to.Addr(), a.port).String() {
				t.Fatalf("got %d from %s, want %d from %s", number(got.data), got.ep.DstToString(), n, to.Addr())
			}
			n++
		}
	}
	distract := func() { _ = a.Send([][]byte{transport(64, 1<<31)}, nobody) } // some hosts have no route there; it is tried all the same

	distract()
	send(ends[0], false, 1)
	send(ends[0], true, 1)
	random := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		if random.IntN(3) == 0 {
			distract()
		}
		send(ends[random.IntN(2)], random.IntN(2) == 0, 1+random.IntN(5))
	}
	for i, end := range ends {
		select {
		case got := <-end.got:
			t.Errorf("end %d also got packet %d", i, number(got.data))
		default:
		}
	}
}
