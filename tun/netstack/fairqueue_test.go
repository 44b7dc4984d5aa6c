package netstack

import (
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// packetOf makes one of a flow.
func packetOf(flow uint32, size int) *stack.PacketBuffer {
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(make([]byte, size))})
	p.Hash = flow
	return p
}

// TestFairQueueShares checks that who sends little does not wait behind who sends much, that two who send much get as many bytes each whatever their
// packets, and that a flow stays in its order.
func TestFairQueueShares(t *testing.T) {
	var q fairQueue
	push := func(flow uint32, size, count int) {
		t.Helper()
		for range count {
			p := packetOf(flow, size)
			if !q.push(p) {
				t.Fatalf("no room for %d bytes of flow %d beside %d", size, flow, q.bytes)
			}
			p.DecRef()
		}
	}
	push(1, 60000, 50)
	push(2, 1000, 3000)
	push(3, 100, 1)
	var got []uint32
	bytes, last := make(map[uint32]int), make(map[uint32]int)
	for i := 0; !q.empty(); i++ {
		taken := q.pop(nil, 1)
		if len(taken) != 1 {
			t.Fatalf("%d packets, want one", len(taken))
		}
		p := taken[0]
		got = append(got, p.Hash)
		bytes[p.Hash] += p.Size()
		last[p.Hash] = i
		p.DecRef()
		if a, b := bytes[1], bytes[2]; last[1] > 0 && len(got) < 3000 && (a-b > 2*quantum || b-a > 2*quantum) {
			t.Fatalf("after %d packets one flow has had %d bytes, the other %d", len(got), a, b)
		}
	}
	if at := slices.Index(got, 3); at < 0 || at > 100 {
		t.Errorf("the packet of the small flow came after %d others", at)
	}
	if q.bytes != 0 || q.flows[1].bytes != 0 {
		t.Errorf("an empty queue counts %d bytes", q.bytes)
	}
	for i := range 5 {
		push(7, 100+i, 1)
	}
	for i, p := range q.pop(nil, 1<<20) {
		if p.Size() != 100+i {
			t.Errorf("packet %d has %d bytes: the order of the flow is lost", i, p.Size())
		}
		p.DecRef()
	}
}

// TestFairQueueBounds checks that neither one flow nor all of them grow without bound.
func TestFairQueueBounds(t *testing.T) {
	var q fairQueue
	fill := func(flow uint32, size int) (n int) {
		for {
			p := packetOf(flow, size)
			ok := q.push(p)
			p.DecRef()
			if !ok {
				return n
			}
			n++
		}
	}
	if n := fill(0, 1); n != maxFlowQueued/(1+packetCost) {
		t.Errorf("%d packets of a byte have room", n)
	}
	for flow := range uint32(flowCount) {
		fill(flow, 60000)
	}
	if q.bytes > maxQueued || q.bytes < maxQueued-maxFlowQueued {
		t.Errorf("%d bytes are queued, want up to %d", q.bytes, maxQueued)
	}
	for _, p := range q.pop(nil, maxQueued) {
		p.DecRef()
	}
	if !q.empty() || q.bytes != 0 {
		t.Errorf("%d bytes are left", q.bytes)
	}
}

func TestFairQueueNoAllocations(t *testing.T) {
	var q fairQueue
	packets := []*stack.PacketBuffer{packetOf(1, 1000), packetOf(2, 1000)}
	to := make([]*stack.PacketBuffer, 0, 8)
	if n := testing.AllocsPerRun(1000, func() {
		for _, p := range packets {
			q.push(p)
		}
		for _, p := range q.pop(to, 1<<20) {
			p.DecRef()
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	for _, p := range packets {
		p.DecRef()
	}
}
