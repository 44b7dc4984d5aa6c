//go:build !linux || wice_portable

package bind

import (
	"net"
	"net/netip"
	"strconv"
	"testing"
)

func TestZones(t *testing.T) {
	ifaces, err := net.Interfaces()
	if err != nil || len(ifaces) == 0 {
		t.Skip("no interfaces: ", err)
	}
	name, number := ifaces[0].Name, strconv.Itoa(ifaces[0].Index)
	const none = "4294967295"
	addr := netip.MustParseAddr("fe80::1")
	at := func(zone string) netip.AddrPort { return netip.AddrPortFrom(addr.WithZone(zone), 9) }
	var z zones
	for _, c := range []struct {
		in, named netip.AddrPort
		scope     string
	}{
		{at(name), at(name), number},
		{at(number), at(name), number},
		{at(none), at(none), none},
		{at("no such interface"), at("no such interface"), "0"},
		{at(""), at(""), "0"},
	} {
		if got := z.named(c.in); got != c.named {
			t.Errorf("%v: got %v, want %v", c.in, got, c.named)
		}
		s := z.source(c.in)
		if got := strconv.Itoa(int(s.scope)); got != c.scope || s != sourceOf(c.in) {
			t.Errorf("%v: got %v, want scope %s and %v", c.in, s, c.scope, sourceOf(c.in))
		}
	}
	at4 := netip.MustParseAddrPort("192.0.2.1:9")
	if z.named(at4) != at4 || z.source(at4) != sourceOf(at4) {
		t.Errorf("got %v and %v, want %v", z.named(at4), z.source(at4), at4)
	}
}

// TestZonesAreListedAgain: an interface that comes back has another number.
func TestZonesAreListedAgain(t *testing.T) {
	ifaces, err := net.Interfaces()
	if err != nil || len(ifaces) == 0 {
		t.Skip("no interfaces: ", err)
	}
	var z zones
	in := netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone(ifaces[0].Name), 9)
	want := z.source(in)
	z.scopes[ifaces[0].Name]++
	if z.source(in) == want {
		t.Fatal("the list was not kept")
	}
	z.at = z.at.Add(-2 * zonesTTL)
	if got := z.source(in); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
