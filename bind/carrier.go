package bind

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

// Carrier is a TURN client's connection to its server that carries WireGuard's packets by itself: a [TURNSocket] or a [TURNStream].
//
//	Send -> ChannelData to the server
//	from the server -> ChannelData with WireGuard's packets -> shared queue -> ReceiveFunc -> WireGuard
//	                -> everything else                      -> the client
//
// The client, pion's, allocates, asks for permissions, binds channels and renews all of these; the carrier watches which channels there are.
// It belongs to one ICE agent, so that there is one peer behind it.
type Carrier interface {
	// carry sends the packets to the peer and reports false if there is no channel yet.
	carry(bufs [][]byte, peer netip.AddrPort) bool
	// attach names the peer whose packets the carrier brings from now on.
	attach(*PeerEndpoint)
}

// carrier is what both kinds have in common.
type carrier struct {
	relay    *relay
	channels channels
	peer     atomic.Pointer[PeerEndpoint] // nil: everything is the client's

	probesMu sync.Mutex // guards the following
	probes   transactions
}

func (c *carrier) attach(e *PeerEndpoint) { c.peer.Store(e) }

// take returns a copy of the WireGuard packet in a message of the server, to be queued. It reports whether the message is the client's.
func (c *carrier) take(b []byte) (p *packet, client bool) {
	number, data := parseChannelData(b)
	e := c.peer.Load()
	switch {
	case data == nil:
		c.channels.received(b)
		return nil, true
	case !isWireGuard(data):
		return nil, !c.answersProbe(data)
	case e == nil || !c.channels.has(number):
		return nil, true
	}
	p = newPacket(data)
	p.peer = e
	return p, false
}

// deliver hands packets to WireGuard and drops what it is too slow for.
func (c *carrier) deliver(ps []*packet) {
	taken := c.relay.queue.push(ps...)
	for _, p := range ps[taken:] {
		p.free()
	}
	c.relay.stats.relayReceiveDrops.Add(uint64(len(ps) - taken))
	clear(ps)
}
