package share

// batch is what one Read of an attached device gave.
type batch struct {
	p       *Port
	bufs    [][]byte
	sizes   []int
	next, n int // what is left is bufs[next:n]
}

// newBatch makes room for some packets, each of up to size bytes with what stands in front of it.
func newBatch(p *Port, packets, size int) *batch {
	b := &batch{p: p, bufs: make([][]byte, packets), sizes: make([]int, packets)}
	room := make([]byte, packets*size)
	for i := range b.bufs {
		b.bufs[i], room = room[:size:size], room[size:]
	}
	return b
}

func (b *batch) empty() bool { return b.next == b.n }

// packet returns one that is left.
func (b *batch) packet(i int) []byte { return b.bufs[i][headroom:][:b.sizes[i]] }

// moveTo copies as many packets as there is room for, and returns how many.
func (b *batch) moveTo(bufs [][]byte, sizes []int, offset int) int {
	n := 0
	for ; n < len(bufs) && b.next < b.n; n++ {
		sizes[n] = copy(bufs[n][offset:], b.packet(b.next))
		b.next++
	}
	return n
}

// release gives the batch back to be filled again.
func (b *batch) release() { b.p.free <- b }
