package bind

import (
	"net/netip"
	"testing"
)

// The MTU of the loopback interface is the same for both families; a route that does not exist has none.
func TestRouteMTU(t *testing.T) {
	b := New(Options{})
	for _, a := range []string{"127.0.0.1", "::1"} {
		addr := netip.MustParseAddr(a)
		if mtu, err := routeMTU(addr, netip.AddrPortFrom(addr, 9), b.ControlSocket); err != nil || mtu < 1280 {
			t.Errorf("%s: got %d, %v", a, mtu, err)
		}
	}
	if _, err := routeMTU(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddrPort("127.0.0.1:9"), b.ControlSocket); err == nil {
		t.Error("a route from an address that is not ours")
	}
}
