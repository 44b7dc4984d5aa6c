package bind

import (
	"net/netip"
	"sync"
)

const (
	// packetSize holds a WireGuard packet of an Ethernet-sized path; bigger ones are allocated.
	packetSize = 2048
	// maxConnPacket is the longest message that a connection may deliver: pion's own limit.
	maxConnPacket = 8192
)

// packet is a copied datagram in a queue.
type packet struct {
	data  []byte
	peer  *PeerEndpoint  // relay queue
	src   netip.AddrPort // queues of the mux
	store [packetSize]byte
}

var packetPool = sync.Pool{New: func() any { return new(packet) }}

// newPacket returns a pooled packet with a copy of data.
func newPacket(data []byte) *packet {
	p := packetPool.Get().(*packet)
	p.data = append(p.store[:0], data...)
	return p
}

func (p *packet) free() {
	p.data, p.peer, p.src = nil, nil, netip.AddrPort{}
	packetPool.Put(p)
}

// queue is a bounded first-in-first-out queue of packets between goroutines that must not wait for each other. A full queue drops
// what arrives: dropping the oldest instead would reorder nothing either, but would waste the work already done for it, and
// the tail drop is what the congestion control of the traffic inside is used to.
type queue struct {
	ready  chan struct{} // holds one token while there may be something to pop
	closed chan struct{}

	mu   sync.Mutex // guards all following
	ring []*packet
	head int
	n    int
	shut bool
}

func newQueue(size int) *queue {
	return &queue{ready: make(chan struct{}, 1), closed: make(chan struct{}), ring: make([]*packet, size)}
}

// push takes as many packets as fit and returns that number. The rest stays the caller's.
func (q *queue) push(ps ...*packet) int {
	q.mu.Lock()
	n := min(len(ps), len(q.ring)-q.n)
	if q.shut {
		n = 0
	}
	for _, p := range ps[:n] {
		q.ring[(q.head+q.n)%len(q.ring)] = p
		q.n++
	}
	q.mu.Unlock()
	if n > 0 {
		q.wake()
	}
	return n
}

func (q *queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// pop moves packets to ps without waiting and returns their number. They are the caller's, who frees them.
func (q *queue) pop(ps []*packet) int {
	q.mu.Lock()
	n := min(len(ps), q.n)
	for i := range n {
		ps[i] = q.ring[q.head]
		q.ring[q.head] = nil
		q.head = (q.head + 1) % len(q.ring)
	}
	q.n -= n
	more := q.n > 0
	q.mu.Unlock()
	if more {
		q.wake() // for another reader, and for the next call of this one
	}
	return n
}

// close wakes all readers for good and frees what is left.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.shut {
		return
	}
	q.shut = true
	close(q.closed)
	for i := range q.n {
		slot := &q.ring[(q.head+i)%len(q.ring)]
		(*slot).free()
		*slot = nil
	}
	q.n = 0
}
