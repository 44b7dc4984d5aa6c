// Package share lets several network stacks live on one tunnel, with the same addresses: the interface's own, which is the kernel's or the
// userspace stack, and those of namespaces that are attached while it runs.
//
//	WireGuard <- Read  <- inner
//	                   <- queue <- attached device (a goroutine for each)
//	WireGuard -> Write -> whose is the local port? -> inner, or the attached device
//
// A packet from WireGuard belongs to the inner stack if that claims it; else to the attached stack that has last sent from the packet's
// local port (for ICMP echo, identifier); else, unless the inner stack takes all that nobody has asked for, to the stack that was attached
// last, so that servers work there. Stacks keep out of each other's way by choosing their ports within different ranges: see [Port.Range].
// Fragments without ports go to all, as only one of them has the rest.
//
// While nothing is attached, a packet costs an atomic load a batch.
//
// # Locking
//
// Packets take no lock. Read is called by one goroutine, as wireguard-go does; all other methods are safe for concurrent use.
package share

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	wgtun "golang.zx2c4.com/wireguard/tun"
)

const (
	// maxPorts is how many stacks can be attached at once.
	maxPorts = 16

	// maxWriters is how much room to sort batches in is kept: WireGuard writes from a goroutine for each peer, of which few run at once.
	maxWriters = 16

	// firstPort is where the ranges of ports of attached stacks begin, and rangeSize is how many each has. They end below 32768, where
	// those of Linux and of the userspace stack begin.
	firstPort = 10240
	rangeSize = 1408
)

// ErrTooMany says that no more stacks can be attached.
var ErrTooMany = errors.New("too many namespaces in this tunnel at once (16)")

// ErrClosed says that the device is closed.
var ErrClosed = errors.New("the tunnel is closed")

// Inner is the device of the interface itself.
type Inner interface {
	wgtun.Device

	// Interrupt makes the Read that waits, or else the next one, return before there is a packet: with no packet and no error.
	Interrupt()
}

// Claims reports whether the inner stack wants a packet: one of a transport protocol (IANA's number) to a local address from a remote
// one. The ports of other protocols than TCP and UDP are 0, but for ICMP echo replies, whose identifier stands for the local one. It is
// called concurrently.
type Claims func(protocol uint8, local, remote netip.AddrPort) bool

// Device is a TUN that more stacks can be attached to.
type Device struct {
	Inner
	claims Claims // nil: the inner stack wants all that no attached stack has asked for

	table   atomic.Pointer[table] // nil: nothing is attached
	queue   chan *batch           // packets of attached stacks
	room    chan *sorted          // not in use
	waiting atomic.Bool           // Read is in Inner.Read, or about to be

	// of the reader
	rest  *batch // packets of the batch that did not fit
	taken bool   // the last packets came from an attached stack

	mu     sync.Mutex // guards the following, and changes of table
	closed bool
	serial uint64
	ports  []*Port // nil where there is room; the index is that in owners, less one
}

// table is a snapshot of what is attached.
type table struct {
	ports  [maxPorts]*Port
	newest *Port
	owners *owners
}

var _ wgtun.Device = (*Device)(nil)

// New returns a device with nothing attached. Nil claims: the inner stack wants all that no attached stack has asked for.
func New(inner Inner, claims Claims) *Device {
	return &Device{Inner: inner, claims: claims, queue: make(chan *batch, maxPorts*(batchesPerPort+1)), room: make(chan *sorted, maxWriters), ports: make([]*Port, maxPorts)}
}

// Read implements [wgtun.Device]. Attached stacks and the inner one take turns.
func (d *Device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for {
		if !d.taken {
			if n := d.take(bufs, sizes, offset); n > 0 {
				d.taken = true
				return n, nil
			}
		}
		d.waiting.Store(true)
		if d.taken || len(d.queue) > 0 || d.rest != nil {
			d.taken = false
			d.Interrupt()
		}
		n, err := d.Inner.Read(bufs, sizes, offset)
		d.waiting.Store(false)
		if t := d.table.Load(); t != nil && d.claims == nil {
			for i := range n {
				t.owners.note(bufs[i][offset:][:sizes[i]], nobody) // what it has sent from is the inner stack's again
			}
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// take moves packets that wait into bufs.
func (d *Device) take(bufs [][]byte, sizes []int, offset int) int {
	if d.rest == nil {
		select {
		case d.rest = <-d.queue:
		default:
			return 0
		}
	}
	n := d.rest.moveTo(bufs, sizes, offset)
	if d.rest.empty() {
		d.rest.release()
		d.rest = nil
	}
	return n
}

// wake has Read look at the queue.
func (d *Device) wake() {
	if d.waiting.CompareAndSwap(true, false) {
		d.Interrupt()
	}
}

// Close implements [wgtun.Device]: it ends what is attached, and then the inner device.
func (d *Device) Close() error {
	d.mu.Lock()
	d.closed = true
	ports := slices.Clone(d.ports)
	d.mu.Unlock()
	for _, p := range ports {
		if p != nil {
			p.Close()
		}
	}
	return d.Inner.Close()
}

// Attach adds a stack by its device, which belongs to the Port from then on, also when Attach fails. The device's packets have at most the MTU
// of the inner one.
func (d *Device) Attach(dev wgtun.Device) (*Port, error) {
	p, err := d.add(dev)
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	go p.run()
	return p, nil
}

func (d *Device) add(dev wgtun.Device) (*Port, error) {
	mtu, err := d.MTU()
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, ErrClosed
	}
	index := slices.Index(d.ports, nil)
	if index < 0 {
		return nil, ErrTooMany
	}
	p := newPort(d, dev, index, mtu)
	d.ports[index] = p
	t := &table{newest: p}
	if old := d.table.Load(); old != nil {
		t.ports, t.owners = old.ports, old.owners
	} else {
		t.owners = new(owners)
	}
	t.ports[index] = p
	d.table.Store(t)
	return p, nil
}

// remove has a stack get no packets any more.
func (d *Device) remove(p *Port) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.table.Load()
	t := &table{ports: old.ports, newest: old.newest, owners: old.owners}
	t.ports[p.index] = nil
	if t.newest == p {
		t.newest = nil
		for _, other := range t.ports {
			if other != nil && (t.newest == nil || other.serial > t.newest.serial) {
				t.newest = other
			}
		}
	}
	if t.newest == nil {
		t = nil
	}
	d.table.Store(t)
}

// free makes room for another stack, once the one that was removed sends nothing any more, and forgets what it owned.
func (d *Device) free(p *Port) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ports[p.index] = nil
	if t := d.table.Load(); t != nil {
		t.owners.forget(p.index)
	}
}
