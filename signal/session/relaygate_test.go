package session

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/ice/v2"
	"github.com/pion/stun"

	"github.com/wice-go/wice-go/proto"
)

func binding(t *testing.T, class stun.MessageClass, priority uint32) []byte {
	t.Helper()
	m, err := stun.Build(stun.NewType(stun.MethodBinding, class), stun.TransactionID, stun.NewUsername("remote:local"),
		ice.AttrControlling(7), ice.PriorityAttr(priority), stun.NewShortTermIntegrity("password"), stun.Fingerprint)
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

func TestRelayGate(t *testing.T) {
	now := time.Now()
	g := newRelayGate(now)
	relay := netip.MustParseAddrPort("192.0.2.1:40000")
	from := net.UDPAddrFromAddrPort(relay)
	const relayPriority, hostPriority = 65535<<8 | 255, 126<<24 | 65535<<8 | 255
	check := binding(t, stun.ClassRequest, relayPriority)
	if g.admits(now, from, check) {
		t.Error("a check from a relay that nobody announced passes")
	}
	if !g.admits(now, from, binding(t, stun.ClassRequest, hostPriority)) {
		t.Error("a check from another candidate does not pass")
	}
	if !g.admits(now, from, binding(t, stun.ClassSuccessResponse, relayPriority)) {
		t.Error("an answer does not pass")
	}
	for _, short := range [][]byte{nil, check[:19], check[:20], check[:27], []byte("data")} {
		if !g.admits(now, from, short) {
			t.Errorf("what is no check does not pass: %x", short)
		}
	}
	if !g.admits(now.Add(relayGateTime), from, check) {
		t.Error("the gate does not open")
	}
	g.announce(relay)
	if !g.admits(now, from, check) {
		t.Error("a check from an announced relay does not pass")
	}
	if !g.admits(now, net.UDPAddrFromAddrPort(netip.MustParseAddrPort("[::ffff:192.0.2.1]:40000")), check) {
		t.Error("the mapped form of an announced address does not pass")
	}
	if g.admits(now, net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:40001")), check) {
		t.Error("another port of an announced relay passes")
	}
}

// However many candidates of other kinds came first, there is room for relays, which come last.
func TestRoomForRelays(t *testing.T) {
	ag := &agent{remoteMax: 4}
	take := func(kind proto.CandidateType, network proto.NetworkType) bool {
		c := proto.Candidate{Type: kind, Network: network}
		if ag.full(c) {
			return false
		}
		ag.remotes = append(ag.remotes, c)
		return true
	}
	for range 4 {
		if !take(proto.Host, proto.UDP4) {
			t.Fatal("no room for the first candidates")
		}
	}
	if take(proto.Host, proto.UDP4) {
		t.Error("the limit does not hold")
	}
	for range minPerKind {
		if !take(proto.Relay, proto.UDP4) || !take(proto.ServerReflexive, proto.UDP4) || !take(proto.Host, proto.UDP6) {
			t.Error("one kind crowds out another")
		}
	}
	if take(proto.Relay, proto.UDP4) {
		t.Error("the limit of a kind does not hold")
	}
	for len(ag.remotes) < maxRemoteCandidates {
		ag.remotes = append(ag.remotes, proto.Candidate{Type: proto.Host})
	}
	if take(proto.Relay, proto.UDP6) {
		t.Error("the limit of all candidates does not hold")
	}
}
