package netstack

import "gvisor.dev/gvisor/pkg/tcpip/stack"

const (
	// maxFlowQueued and maxQueued are how many bytes one flow, and all together, may have waiting for wireguard-go to read them; TCP takes what
	// does not fit for loss, and slows down. A connection can't fill its share, as no more than its buffer is on the way. Most of it is memory
	// that TCP keeps anyway until it is acknowledged.
	maxFlowQueued = maxTCPBuffer + maxTCPBuffer/4
	maxQueued     = 64 << 20
	// packetCost is what a packet counts beside its bytes, in bytes.
	packetCost = 512
	// quantum is how many bytes a flow may send in its turn: the longest packet.
	quantum = gsoMaxSize
	// flowCount is how many flows are told apart. It is a power of two.
	flowCount = 256
)

// fairQueue holds packets by flow, and hands them out by deficit round robin (Shreedhar and Varghese, 1995): a flow that sends little does not wait
// behind what others have queued. A flow is a TCP connection, by a hash; all else is one flow. The kernel has the same from fair queueing and
// from TCP, which queues little of a connection at a time; gVisor's queues all that the window permits. Not safe for concurrent use.
type fairQueue struct {
	flows  [flowCount]flow
	active fifo[*flow] // those with packets, the one whose turn it is first
	bytes  int         // of all, with packetCost for each packet
}

type flow struct {
	packets fifo[*stack.PacketBuffer]
	bytes   int // likewise
	credit  int // bytes that it may still send in its turn
}

func (q *fairQueue) empty() bool { return q.active.len() == 0 }

// push takes a reference to the packet, or returns false if there is no room.
func (q *fairQueue) push(p *stack.PacketBuffer) bool {
	f := &q.flows[p.Hash%flowCount]
	cost := p.Size() + packetCost
	if f.bytes+cost > maxFlowQueued || q.bytes+cost > maxQueued {
		return false
	}
	if f.packets.len() == 0 {
		f.credit = quantum
		q.active.push(f)
	}
	f.packets.push(p.IncRef())
	f.bytes += cost
	q.bytes += cost
	return true
}

// pop appends at least one packet to those given, if there is any, and stops when it has so many bytes. The references are the caller's.
func (q *fairQueue) pop(to []*stack.PacketBuffer, bytes int) []*stack.PacketBuffer {
	for bytes > 0 && !q.empty() {
		f := q.active.first()
		if f.credit <= 0 {
			f.credit += quantum
			q.active.push(q.active.pop())
			continue
		}
		p := f.packets.pop()
		size := p.Size()
		f.credit -= size
		f.bytes -= size + packetCost
		q.bytes -= size + packetCost
		bytes -= size
		to = append(to, p)
		if f.packets.len() == 0 {
			q.active.pop()
		}
	}
	return to
}

// fifo is a queue that keeps its memory.
type fifo[T any] struct {
	items []T
	head  int // the index of the first
}

func (q *fifo[T]) len() int { return len(q.items) - q.head }
func (q *fifo[T]) first() T { return q.items[q.head] }

func (q *fifo[T]) push(v T) {
	if len(q.items) == cap(q.items) && q.head > len(q.items)/2 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, v)
}

func (q *fifo[T]) pop() T {
	v := q.items[q.head]
	var none T
	q.items[q.head] = none
	q.head++
	if q.len() == 0 {
		q.items, q.head = q.items[:0], 0
	}
	return v
}
