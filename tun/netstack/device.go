package netstack

import (
	"os"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
	wgtun "golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/wice-go/wice-go/tun/offload"
)

// tunDevice is the stack as wireguard-go sees it. TCP goes through it in packets of up to 64 KiB:
//
//	Read: link.take -> offload.Splitter cuts what TCP has sent, and gives it checksums -> bufs
//	Write: bufs -> offload.Coalescer joins what one call has of a connection -> one copy -> link.deliver
//
// # Locking
//
// Read is called by one goroutine at a time, as wireguard-go does. All other methods are safe for concurrent use.
type tunDevice struct {
	// Constant after newDevice.
	s      *Stack
	mtu    int
	events chan wgtun.Event

	// Owned by the goroutine that calls Read.
	taken []*stack.PacketBuffer // from the link
	next  int                   // the index of the first of them that was not begun
	split offload.Splitter
	cut   *stack.PacketBuffer // what the splitter refers to; nil: nothing
	head  []byte              // its headers
	parts [][]byte            // its payload

	joining sync.Pool // of *joiner, for Write

	mu     sync.RWMutex // held for reading by Write
	closed bool         // guarded by mu
}

var _ wgtun.Device = (*tunDevice)(nil)

func newDevice(s *Stack, mtu int) *tunDevice {
	d := &tunDevice{s: s, mtu: mtu, events: make(chan wgtun.Event, 1)}
	d.joining.New = func() any { return &joiner{Coalescer: offload.NewStackCoalescer()} }
	d.events <- wgtun.EventUp
	return d
}

// Read waits for one packet and takes along all that wait with it. After Close it hands out what had been queued, such as the resets of
// connections, before it fails with os.ErrClosed.
func (d *tunDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n := 0
	for n < len(bufs) {
		if d.split.Pending() {
			size, err := d.split.Next(bufs[n][offset:])
			if err == nil { // else it was too long for the buffer, and is dropped
				sizes[n] = size
				n++
			}
			continue
		}
		d.release()
		if d.next == len(d.taken) {
			taken, err := d.s.link.take(d.taken[:0], n == 0)
			d.taken, d.next = taken, 0
			if n == 0 && err != nil {
				return 0, err
			}
			if len(taken) == 0 {
				break
			}
		}
		p := d.taken[d.next]
		d.taken[d.next] = nil
		d.next++
		if p.GSOOptions.Type != stack.GSONone {
			d.load(p)
			continue
		}
		sizes[n] = copyPacket(bufs[n][offset:], p)
		p.DecRef()
		n++
	}
	return n, nil
}

// load gives a packet of TCP to the splitter. What that refuses is dropped: it has no checksum that anybody would accept.
func (d *tunDevice) load(p *stack.PacketBuffer) {
	network, transport := p.NetworkHeader().Slice(), p.TransportHeader().Slice()
	d.head = append(append(d.head[:0], network...), transport...)
	d.parts = d.parts[:0]
	views, skip := p.AsViewList()
	skip += len(d.head)
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		n := min(skip, len(b))
		skip -= n
		if n < len(b) {
			d.parts = append(d.parts, b[n:])
		}
	}
	d.cut = p
	_ = d.split.LoadTCP(d.head, d.parts, int(p.GSOOptions.MSS))
}

// release gives back the packet that was cut.
func (d *tunDevice) release() {
	if d.cut != nil {
		d.cut.DecRef()
		d.cut = nil
	}
}

// copyPacket copies all parts of a packet. wireguard-go's buffers hold the largest packet that there is.
func copyPacket(to []byte, packet *stack.PacketBuffer) int {
	n := 0
	for _, part := range packet.AsSlices() {
		n += copy(to[n:], part)
	}
	return n
}

// Interrupt has the Read that waits for a packet, or else the next one, return without waiting: what there is, which may be nothing. Interrupts
// until then count as one.
func (d *tunDevice) Interrupt() { d.s.link.interrupt() }

// joiner is what one call of Write needs.
type joiner struct {
	*offload.Coalescer
	pieces [][]byte
}

// Write hands packets to the stack, in the caller's goroutine; it changes bufs. What is not IP is dropped.
func (d *tunDevice) Write(bufs [][]byte, offset int) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return 0, os.ErrClosed
	}
	j := d.joining.Get().(*joiner)
	defer d.joining.Put(j)
	for i := range j.Join(bufs, offset) {
		j.pieces = j.Packet(j.pieces[:0], i)
		d.deliver(j.pieces)
	}
	clear(j.pieces)
	return len(bufs), nil
}

// deliver makes a packet of its pieces.
func (d *tunDevice) deliver(pieces [][]byte) {
	if len(pieces[0]) == 0 {
		return
	}
	var protocol tcpip.NetworkProtocolNumber
	switch pieces[0][0] >> 4 {
	case header.IPv4Version:
		protocol = header.IPv4ProtocolNumber
	case header.IPv6Version:
		protocol = header.IPv6ProtocolNumber
	default:
		return
	}
	size := 0
	for _, b := range pieces {
		size += len(b)
	}
	view := buffer.NewView(size)
	for _, b := range pieces {
		view.Write(b) // there is room
	}
	packet := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(view)})
	d.s.link.deliver(protocol, packet)
	packet.DecRef()
}

// stop ends the device, after the stack has ended.
func (d *tunDevice) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	close(d.events)
}

func (d *tunDevice) File() *os.File             { return nil }
func (d *tunDevice) MTU() (int, error)          { return d.mtu, nil }
func (d *tunDevice) Name() (string, error)      { return "netstack", nil }
func (d *tunDevice) Events() <-chan wgtun.Event { return d.events }
func (d *tunDevice) Close() error               { return d.s.Close() }
func (d *tunDevice) BatchSize() int             { return conn.IdealBatchSize }
