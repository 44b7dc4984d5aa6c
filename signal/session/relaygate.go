package session

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/stun"
)

// relayGate holds back the checks that the peer sends through a relay of its own which it has not announced yet: the way through the
// relay may be faster than the signaling. pion would take the relay for a peer-reflexive candidate, which ranks above all that a
// hole has to be punched for, select it, and call it direct. The peer repeats its checks, so none is missed.
type relayGate struct {
	opened time.Time // constant: from then on everything passes

	mu        sync.Mutex
	announced map[netip.AddrPort]bool
}

// relayGateTime is how long an announcement may take: longer, and a check is welcome whatever its way. A peer whose relay shows
// another address than the one that it announces connects then.
const relayGateTime = 3 * time.Second

func newRelayGate(now time.Time) *relayGate {
	return &relayGate{opened: now.Add(relayGateTime), announced: make(map[netip.AddrPort]bool)}
}

// announce lets the checks from a relay through.
func (g *relayGate) announce(relay netip.AddrPort) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.announced[relay] = true
}

// admits reports whether a datagram may be seen by the agent.
func (g *relayGate) admits(now time.Time, from net.Addr, b []byte) bool {
	if !now.Before(g.opened) || !isRelayCheck(b) {
		return true
	}
	udp, ok := from.(*net.UDPAddr)
	if !ok {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.announced[unmapped(udp)]
}

// isRelayCheck reports whether b is a Binding request whose PRIORITY has the type preference of relays, 0 (RFC 8445, sections 5.1.2.2
// and 7.1.1).
func isRelayCheck(b []byte) bool {
	const attrPriority = 0x24
	if len(b) < 20 || b[0] != 0 || b[1] != 1 || !stun.IsMessage(b) {
		return false
	}
	for b = b[20:]; len(b) >= 8; {
		if b[0] == 0 && b[1] == attrPriority {
			return b[4] == 0
		}
		n := 4 + (int(b[2])<<8|int(b[3])+3)&^3
		if n > len(b) {
			break
		}
		b = b[n:]
	}
	return false
}
