package clamp

// queue has packets for the next Read, one behind the other.
type queue struct {
	data  []byte
	sizes []int
	off   int // bytes taken
	next  int // packets taken
}

func (q *queue) empty() bool { return q.next == len(q.sizes) }

// push appends a copy of a packet.
func (q *queue) push(b []byte) {
	q.data = append(q.data, b...)
	q.sizes = append(q.sizes, len(b))
}

// fill moves packets into the batch from slot n on, as many as there are or have room, and returns the number of slots then used.
func (q *queue) fill(bufs [][]byte, sizes []int, offset, n int) int {
	for ; n < len(bufs) && !q.empty(); n++ {
		size := q.sizes[q.next]
		sizes[n] = copy(bufs[n][offset:], q.data[q.off:q.off+size])
		q.off += size
		q.next++
	}
	if q.empty() {
		q.data, q.sizes, q.off, q.next = q.data[:0], q.sizes[:0], 0, 0
	}
	return n
}
