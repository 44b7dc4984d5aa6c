package device

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/proto/key"
)

func TestOverlay(t *testing.T) {
	bob, carol, dave := key.NewPrivate().Public(), key.NewPrivate().Public(), key.NewPrivate().Public()
	d := &Device{table: table{members: make(map[key.Public]*member)}}
	d.file.Store(newSettings(&config.Config{Peers: []config.Peer{
		{PublicKey: bob, Name: "Bob"}, {PublicKey: carol, Name: "bob"}, {PublicKey: dave, Name: "net"},
	}}))
	if d.Routed(netip.MustParseAddr("10.0.0.2")) || d.PeerAddresses("bob") != nil {
		t.Error("something is behind a tunnel without peers")
	}
	for pk, allowed := range map[key.Public][]string{bob: {"10.0.0.2/32", "10.1.0.0/16", "fd00::2/128"}, carol: {"10.0.0.3/32"}, dave: {"192.168.0.0/24"}} {
		d.table.add(pk)
		for _, p := range allowed {
			d.table.edit(pk, func(m *member) { d.table.allowLocked(m, netip.MustParsePrefix(p)) })
		}
	}
	for a, want := range map[string]bool{
		"10.0.0.2": true, "::ffff:10.0.0.2": true, "10.0.0.4": false, "10.1.255.255": true, "10.2.0.0": false, "fd00::2": true, "fd00::3": false,
		"192.168.0.9": true, "192.168.1.9": false, "0.0.0.0": false, "::": false,
	} {
		if got := d.Routed(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: got %v, want %v", a, got, want)
		}
	}
	want := []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}
	for _, name := range []string{"bob", "BOB"} {
		if got := d.PeerAddresses(name); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{"", "net", "eve"} {
		if got := d.PeerAddresses(name); len(got) > 0 {
			t.Errorf("%q: got %v, want none", name, got)
		}
	}
}
