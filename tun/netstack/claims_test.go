package netstack

import (
	"net/netip"
	"testing"
)

func TestClaims(t *testing.T) {
	a, err := New([]netip.Addr{a4, a6}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	peer, peer6 := netip.MustParseAddrPort("10.0.0.2:5000"), netip.MustParseAddrPort("[fd00::2]:5000")
	for _, port := range []string{"10.0.0.1:22", "0.0.0.0:23", "[fd00::1]:24"} {
		l, err := a.ListenTCP(netip.MustParseAddrPort(port))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	u, err := a.DialUDP(netip.MustParseAddrPort("10.0.0.1:30"), netip.MustParseAddrPort("10.0.0.2:53"))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for _, c := range []struct {
		protocol uint8
		local    string
		remote   netip.AddrPort
		want     bool
	}{
		{6, "10.0.0.1:22", peer, true},
		{6, "10.0.0.1:23", peer, true},
		{6, "10.0.0.1:24", peer, false},
		{17, "10.0.0.1:22", peer, false},
		{6, "[fd00::1]:24", peer6, true},
		{6, "[fd00::1]:22", peer6, false},
		{17, "10.0.0.1:30", netip.MustParseAddrPort("10.0.0.2:53"), true},
		{17, "10.0.0.1:30", netip.MustParseAddrPort("10.0.0.2:54"), false},
		{1, "10.0.0.1:7", peer, false},
		{47, "10.0.0.1:0", peer, false},
	} {
		if got := a.Claims(c.protocol, netip.MustParseAddrPort(c.local), c.remote); got != c.want {
			t.Errorf("protocol %d, %s from %s: %v", c.protocol, c.local, c.remote, got)
		}
	}
}
