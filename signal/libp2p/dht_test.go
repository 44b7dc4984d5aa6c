package libp2p

import (
	"net/netip"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/rendezvous"
	"github.com/wice-go/wice-go/signal/signaltest"
)

// TestDHTFinds checks the query by itself: Publish hardly ever gets that far.
func TestDHTFinds(t *testing.T) {
	s, err := rendezvous.Start(t.Context(), rendezvous.Options{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := ParseConfig([]url.Values{{"bootstrap": s.Bootstraps(), "listen": {"/ip4/127.0.0.1/tcp/0"}, "mdns": {"false"}}})
	if err != nil {
		t.Fatal(err)
	}
	var nodes []*Backend
	for range 2 {
		b, err := NewBackend(t.Context(), signal.Env{
			Identity: key.NewPrivate(), Sink: signaltest.NewRecorder(), ExcludeAddr: func(a netip.Addr) bool { return !a.IsLoopback() },
		}, c)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		nodes = append(nodes, b)
	}
	a, b := nodes[0], nodes[1]
	deadline := time.Now().Add(20 * time.Second)
	for {
		// Until both are connected there is nobody to ask, or nothing to say.
		found := a.dht.find(t.Context(), b.host.ID())
		if slices.ContainsFunc(found, func(x ma.Multiaddr) bool { return slices.ContainsFunc(b.host.Addrs(), x.Equal) }) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %v, want one of %v", found, b.host.Addrs())
		}
	}
	if len(a.host.Network().ConnsToPeer(b.host.ID())) > 0 {
		t.Error("the query dialled a peer that is not configured")
	}
	if found := a.dht.find(t.Context(), peer.ID("\x00\x01x")); found != nil {
		t.Errorf("got %v for a peer that nobody knows", found)
	}
}

func TestGaterAddresses(t *testing.T) {
	const relay = "/ip4/5.1.0.1/tcp/4001/p2p/" + id1 + "/p2p-circuit"
	overlay := netip.MustParsePrefix("10.9.0.0/16")
	id := func(s string) peer.ID {
		t.Helper()
		x, err := peer.Decode(s)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	for _, test := range []struct {
		addr            string
		plain, loopback bool // usable, without and with loopback listened on
	}{
		{"/ip4/5.1.0.1/tcp/1", true, true},
		{"/ip4/192.168.1.1/udp/1/quic-v1", true, true},
		{"/ip6/2a0e::1/tcp/1", true, true},
		{"/ip4/127.0.0.1/tcp/1", false, true},
		{"/ip6/::1/tcp/1", false, true},
		{"/ip4/10.9.1.1/tcp/1", false, false},
		{"/ip6/::ffff:10.9.1.1/tcp/1", false, false},
		{"/ip4/0.0.0.0/tcp/1", false, false},
		{"/ip4/224.0.0.1/udp/1/quic-v1", false, false},
		{"/ip6/fe80::1/tcp/1", false, false},
		{"/dns4/example.org/tcp/1", false, false},
		{relay, true, true},
	} {
		for _, loopback := range []bool{false, true} {
			g := &gater{loopback: loopback, exclude: overlay.Contains, bootstraps: map[peer.ID]bool{id(id1): true}}
			want := test.plain
			if loopback {
				want = test.loopback
			}
			if got := g.usable(ma.StringCast(test.addr)); got != want {
				t.Errorf("%s, loopback %v: got %v, want %v", test.addr, loopback, got, want)
			}
		}
	}
	g := &gater{bootstraps: map[peer.ID]bool{id(id1): true}, exclude: overlay.Contains}
	if !g.InterceptAddrDial(id(id2), ma.StringCast(relay)) {
		t.Error("a circuit through a bootstrap is refused")
	}
	g.bootstraps = nil
	if g.InterceptAddrDial(id(id2), ma.StringCast(relay)) {
		t.Error("a circuit through anyone is dialled")
	}
}

func TestGaterDHTServersAreBounded(t *testing.T) {
	g := &gater{servers: map[peer.ID]bool{}}
	for i := range maxDHTServers + 10 {
		if got, want := g.allowServer(peer.ID(rune(i))), i < maxDHTServers; got != want {
			t.Fatalf("server %d: got %v, want %v", i, got, want)
		}
	}
	if g.known(peer.ID(rune(0)), false) {
		t.Error("a DHT server may connect to us")
	}
	g.forgetServers()
	if g.known(peer.ID(rune(0)), true) {
		t.Error("a DHT server is not forgotten")
	}
}
