// Package clamp keeps packets to some peers smaller than the interface's MTU allows, because the paths to them are narrower. It stands
// between the TUN and WireGuard, and does what a router in front of a narrow link does:
//
//	TUN -> Read -> no peer is limited:                            WireGuard
//	            -> TCP SYN to a limited peer: lower MSS        -> WireGuard
//	            -> larger than the peer's limit:
//	                 IPv4 with DF, IPv6 over 1280: ICMP too big -> TUN
//	                 other IPv4, IPv6 up to 1280:  fragments    -> WireGuard
//	WireGuard -> Write -> TCP SYN from a limited peer: lower MSS -> TUN
//
// The MSS spares new connections the first loss; the ICMP messages (RFC 1191, RFC 8201) reach those that are under way when a path
// shrinks. IPv6 knows no links below 1280 bytes, and its hosts ignore who says otherwise: packets up to that size are fragmented
// here if they must, as RFC 8200, section 5, asks of whoever carries IPv6 over less.
//
// # Locking
//
// Packets take no lock but that of the TUN: they load atomic pointers. Read is called by one goroutine at a time, as wireguard-go
// does; Write and all other methods are safe for concurrent use.
package clamp

import (
	"net/netip"
	"sync"
	"sync/atomic"

	wgtun "golang.zx2c4.com/wireguard/tun"
)

// Peer is what a [Device] knows of a peer. The zero value has no limit.
type Peer struct {
	limit atomic.Int32 // bytes of an inner packet; 0: none but the interface's MTU
}

// Device is a TUN whose packets are clamped.
type Device struct {
	wgtun.Device // the inner one
	route        func(netip.Addr) *Peer

	smallest atomic.Int32 // of all limits; 0: no peer is limited

	// owned by the goroutine that calls Read
	queue  queue   // fragments that found no room in the last batch
	icmp   []byte  // room for a message
	budget budgets // of messages
	nextID uint32  // of fragments of IPv6

	mu      sync.Mutex // guards the following, and the changes of smallest
	limited map[*Peer]bool
}

var _ wgtun.Device = (*Device)(nil)

// New returns a device that hands everything through until a peer is limited. Route is asked, for packets, which peer WireGuard sends those
// for an address to: that of the longest prefix; nil: one that is never limited, or none. It must not block.
func New(inner wgtun.Device, route func(netip.Addr) *Peer) *Device {
	return &Device{Device: inner, route: route, limited: make(map[*Peer]bool), icmp: make([]byte, headroom+maxICMP), nextID: randomID()}
}

// SetLimit limits the packets to a peer to n bytes; 0 lifts the limit. Limits below minLimit are not kept to.
func (d *Device) SetLimit(p *Peer, n int) {
	if n > 0 {
		n = max(n, minLimit)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	p.limit.Store(int32(n))
	if n > 0 {
		d.limited[p] = true
	} else {
		delete(d.limited, p)
	}
	var smallest int32
	for l := range d.limited {
		if n := l.limit.Load(); smallest == 0 || n < smallest {
			smallest = n
		}
	}
	d.smallest.Store(smallest)
}

// Limit returns the peer's limit in bytes, 0 if it has none.
func (p *Peer) Limit() int { return int(p.limit.Load()) }

// limit returns the limit of the peer that has the address, 0 if there is none.
func (d *Device) limit(a netip.Addr) int {
	if p := d.route(a); p != nil {
		return p.Limit()
	}
	return 0
}

// Read implements [wgtun.Device]. A size of 0 stands for a packet that was answered instead.
func (d *Device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	if !d.queue.empty() {
		return d.queue.fill(bufs, sizes, offset, 0), nil
	}
	n, err := d.Device.Read(bufs, sizes, offset)
	if smallest := int(d.smallest.Load()); smallest > 0 {
		n = d.outgoing(bufs, sizes, offset, n, smallest)
	}
	return n, err
}

// outgoing clamps what was read, and returns the number of packets after that.
func (d *Device) outgoing(bufs [][]byte, sizes []int, offset, n, smallest int) int {
	for i := range n {
		b := bufs[i][offset:][:sizes[i]]
		p, ok := parse(b)
		if !ok {
			continue
		}
		if p.syn() {
			p.clampMSS(d.limit(p.dst()))
		}
		if len(b) <= smallest {
			continue
		}
		limit := d.limit(p.dst())
		if limit == 0 || len(b) <= limit {
			continue
		}
		if p.fragmentable() {
			return d.fragmentFrom(bufs, sizes, offset, i, n)
		}
		d.tooBig(&p, limit)
		sizes[i] = 0
	}
	return n
}

// fragmentFrom takes the packets from the i-th on out of the batch and puts them back, in their order, with fragments in the place
// of those that are too large.
func (d *Device) fragmentFrom(bufs [][]byte, sizes []int, offset, i, n int) int {
	for j := i; j < n; j++ {
		b := bufs[j][offset:][:sizes[j]]
		p, ok := parse(b)
		if !ok {
			d.queue.push(b)
			continue
		}
		if p.syn() {
			p.clampMSS(d.limit(p.dst()))
		}
		limit := d.limit(p.dst())
		switch {
		case limit == 0 || len(b) <= limit:
			d.queue.push(b)
		case p.fragmentable():
			d.nextID++
			p.fragment(limit, d.nextID, d.queue.push)
		default:
			d.tooBig(&p, limit)
		}
	}
	return d.queue.fill(bufs, sizes, offset, i)
}

// tooBig answers a packet with the ICMP message that it is too big, into the TUN.
func (d *Device) tooBig(p *packet, limit int) {
	if !p.answerable() || !d.budget.take(p.src(), p.dst()) {
		return
	}
	b := p.appendTooBig(d.icmp[:headroom], limit)
	// An error means that the TUN is going down.
	_, _ = d.Device.Write([][]byte{b}, headroom)
}

// Write implements [wgtun.Device].
func (d *Device) Write(bufs [][]byte, offset int) (int, error) {
	if d.smallest.Load() > 0 {
		for _, b := range bufs {
			if p, ok := parse(b[offset:]); ok && p.syn() {
				p.clampMSS(d.limit(p.src()))
			}
		}
	}
	return d.Device.Write(bufs, offset)
}
