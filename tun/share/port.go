package share

import (
	"sync"

	wgtun "golang.zx2c4.com/wireguard/tun"
)

const (
	// batchesPerPort is how many batches of an attached stack may wait for WireGuard; one more is being filled. TCP takes it for a slow
	// link when it has to wait.
	batchesPerPort = 2

	// headroom is the room in front of packets that devices want, in bytes: as much as wireguard-go leaves.
	headroom = 16
)

// Port is an attached stack. All methods are safe for concurrent use.
type Port struct {
	d      *Device
	dev    wgtun.Device
	index  int
	serial uint64 // the order of attachment
	free   chan *batch
	ended  chan struct{} // closed when the device has ended
	gone   chan struct{} // closed when Close begins

	close sync.Once
	err   error
}

func newPort(d *Device, dev wgtun.Device, index, mtu int) *Port {
	d.serial++
	p := &Port{d: d, dev: dev, index: index, serial: d.serial, free: make(chan *batch, batchesPerPort+1), ended: make(chan struct{}), gone: make(chan struct{})}
	for range cap(p.free) {
		p.free <- newBatch(p, dev.BatchSize(), headroom+mtu)
	}
	return p
}

// Range returns the first and the last of the local ports that the stack should choose its own from.
func (p *Port) Range() (first, last uint16) {
	first = firstPort + uint16(p.index)*rangeSize
	return first, first + rangeSize - 1
}

// Done is closed when the stack's device has ended, by Close or by itself.
func (p *Port) Done() <-chan struct{} { return p.ended }

// Close ends the stack's device, and returns when no packet of it is under way but those that WireGuard has. It is idempotent.
func (p *Port) Close() error {
	p.close.Do(func() {
		p.d.remove(p)
		close(p.gone)
		p.err = p.dev.Close()
		<-p.ended
		p.d.free(p)
	})
	return p.err
}

// run reads the device until it ends.
func (p *Port) run() {
	defer close(p.ended)
	for {
		var b *batch
		select {
		case b = <-p.free:
		case <-p.gone:
			return
		}
		n, err := p.dev.Read(b.bufs, b.sizes, headroom)
		b.next, b.n = 0, n
		t := p.d.table.Load()
		if n == 0 || t == nil {
			p.free <- b
		} else {
			for i := range n {
				t.owners.note(b.packet(i), uint32(p.index+1))
			}
			select {
			case p.d.queue <- b: // full only of what closed ports have left, while nobody reads
				p.d.wake()
			case <-p.gone:
				return
			}
		}
		if err != nil && !transient(err) {
			go p.Close()
			return
		}
	}
}
