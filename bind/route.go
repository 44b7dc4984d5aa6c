package bind

import (
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"
)

// demux decides whom a received packet is for.
type demux struct {
	table *sourceTable
	cache *endpointCache
	mux   *Mux
	stats *counters
}

// origin is where the packets of one datagram come from; joined packets share it, and the lookup of the endpoint.
type origin struct {
	source source
	local  local
	ep     conn.Endpoint
}

// route returns the endpoint of a packet for WireGuard. It returns nil for all others, after handing STUN to the mux.
func (d *demux) route(b []byte, from *origin) conn.Endpoint {
	switch classify(b) {
	case kindWireGuard:
		if from.ep == nil {
			from.ep = d.endpoint(from)
		}
		return from.ep
	case kindSTUN:
		d.mux.deliver(b, from)
	default:
		d.stats.dropped.Add(1)
	}
	return nil
}

func (d *demux) endpoint(from *origin) conn.Endpoint {
	if e := d.table.lookup(from.source); e != nil && e.accept(from.source, from.local) {
		return e
	}
	return d.cache.get(from.source, from.local)
}

// counters count what the bind drops; the zero value is ready.
type counters struct {
	dropped           atomic.Uint64
	noPath            atomic.Uint64
	sendDrops         atomic.Uint64
	relaySendDrops    atomic.Uint64
	relayReceiveDrops atomic.Uint64
	stunDropped       atomic.Uint64
	stunLimited       atomic.Uint64
}

// Stats counts packets that went nowhere since the bind was made.
type Stats struct {
	Unknown          uint64 // received, neither WireGuard nor STUN
	NoPath           uint64 // to send, but the peer had no path; the handshake initiation that is held counts too
	SendFull         uint64 // to send, but the socket's buffer stayed full
	RelaySendFull    uint64 // to send over a connection that was too slow or had failed
	RelayReceiveFull uint64 // received over a connection faster than WireGuard took them
	STUNUnknown      uint64 // STUN for nobody, or from an excluded address
	STUNRateLimited  uint64 // STUN requests from unknown addresses beyond the limit
}

func (c *counters) snapshot() Stats {
	return Stats{
		Unknown:          c.dropped.Load(),
		NoPath:           c.noPath.Load(),
		SendFull:         c.sendDrops.Load(),
		RelaySendFull:    c.relaySendDrops.Load(),
		RelayReceiveFull: c.relayReceiveDrops.Load(),
		STUNUnknown:      c.stunDropped.Load(),
		STUNRateLimited:  c.stunLimited.Load(),
	}
}
