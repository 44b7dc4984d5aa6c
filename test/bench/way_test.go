package bench

import (
	"net/netip"
	"testing"

	"github.com/wice-go/wice-go/test/program"
)

func TestWay(t *testing.T) {
	a, b, relay := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	peer := func(state, kind, protocol, local, remote string) program.Peer {
		return program.Peer{State: state, Path: &program.Path{Kind: kind, Protocol: protocol, Local: program.End{Address: local}, Remote: program.End{Address: remote}}}
	}
	direct := way{"connected", "direct", "udp", a, b}
	relayed := way{"connected", "relay", "tcp", relay, relay}
	plain := way{"plain", "plain", "udp", netip.Addr{}, b}
	tests := []struct {
		name string
		want way
		peer program.Peer
		ok   bool
	}{
		{"direct", direct, peer("connected", "direct", "udp", "192.0.2.1:7", "192.0.2.2:7"), true},
		{"relayed", relayed, peer("connected", "relay", "tcp", "192.0.2.3:7", "192.0.2.3:8"), true},
		{"plain", plain, peer("plain", "plain", "udp", "", "192.0.2.2:7"), true},
		{"no path yet", direct, program.Peer{State: "connecting"}, false},
		{"relayed in place of direct", direct, peer("connected", "relay", "udp", "192.0.2.3:7", "192.0.2.3:8"), false},
		{"direct in place of relayed", relayed, peer("connected", "direct", "udp", "192.0.2.1:7", "192.0.2.2:8"), false},
		{"relayed over UDP", relayed, peer("connected", "relay", "udp", "192.0.2.3:7", "192.0.2.3:8"), false},
		{"from another address", direct, peer("connected", "direct", "udp", "192.0.2.9:7", "192.0.2.2:7"), false},
		{"to another address", direct, peer("connected", "direct", "udp", "192.0.2.1:7", "10.0.0.1:7"), false},
		{"no address", plain, peer("plain", "plain", "udp", "", ""), false},
	}
	for _, test := range tests {
		if err := test.want.check(test.peer); (err == nil) != test.ok {
			t.Errorf("%s: got %v, want ok %v", test.name, err, test.ok)
		}
	}
}
