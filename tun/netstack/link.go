package netstack

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// gsoMaxSize is the longest packet that TCP may hand over, in bytes, headers included: what IP can carry. The device cuts it.
	gsoMaxSize = maxMTU
	// takeBytes is about how much one take returns: more than a batch of wireguard-go. What is taken, others can't overtake any more.
	takeBytes = 256 << 10
	// pacedBytes is how much may wait before those wait who send into the tunnel: a few packets of 64 KiB.
	pacedBytes = 256 << 10
	// maxPace bounds that wait: many times what it takes to send pacedBytes, and not for ever, as nobody may be reading the link.
	maxPace = 50 * time.Millisecond
)

// link is the interface as gVisor sees it: a queue that the device reads. All methods are safe for concurrent use.
type link struct {
	mtu        atomic.Uint32 // bytes
	dispatcher atomic.Pointer[stack.NetworkDispatcher]

	mu          sync.Mutex // guards the following
	ready       sync.Cond  // there is something to read, or one of the two flags is set
	queue       fairQueue
	room        chan struct{} // closed once there is less than pacedBytes in the queue; nil: nobody waits
	keep        bool          // copies of resets, for sendResets
	resets      []*stack.PacketBuffer
	closed      bool
	interrupted bool
}

var (
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
)

func newLink(mtu int) *link {
	l := new(link)
	l.ready.L = &l.mu
	l.mtu.Store(uint32(mtu))
	return l
}

// WritePackets queues what there is room for. It never waits: the caller holds locks of TCP, which Device.Write can need in the goroutine that
// reads the queue, as when package clamp answers a packet.
func (l *link) WritePackets(packets stack.PacketBufferList) (int, tcpip.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, &tcpip.ErrClosedForSend{}
	}
	for n, p := range packets.AsSlice() {
		if l.keep && isReset(p) {
			l.resets = append(l.resets, p.IncRef())
		}
		if !l.queue.push(p) {
			return n, &tcpip.ErrNoBufferSpace{}
		}
	}
	l.ready.Signal()
	return packets.Len(), nil
}

// take waits for packets, if so asked, and appends some to those given; the caller has a reference to each. Interrupted, it does not
// wait. Once the link is closed and empty, the error is os.ErrClosed.
func (l *link) take(to []*stack.PacketBuffer, wait bool) ([]*stack.PacketBuffer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for wait && l.queue.empty() && !l.closed && !l.interrupted {
		l.ready.Wait()
	}
	if wait {
		l.interrupted = false
	}
	if l.closed && l.queue.empty() {
		return to, os.ErrClosed
	}
	to = l.queue.pop(to, takeBytes)
	if l.room != nil && l.queue.bytes < pacedBytes {
		close(l.room)
		l.room = nil
	}
	return to, nil
}

// pace waits while much is queued, but not longer than maxPace. TCP can only have on the way what it was given, so that this keeps the queue short; the
// kernel does it for its own connections (TCP small queues).
func (l *link) pace() {
	l.mu.Lock()
	if l.queue.bytes < pacedBytes || l.closed {
		l.mu.Unlock()
		return
	}
	if l.room == nil {
		l.room = make(chan struct{})
	}
	room := l.room
	l.mu.Unlock()
	timer := time.NewTimer(maxPace)
	defer timer.Stop()
	select {
	case <-room:
	case <-timer.C:
	}
}

// keepResets says whether resets of connections that are sent are to be kept for sendResets.
func (l *link) keepResets(keep bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keep = keep
}

// sendResets sends again what was kept.
func (l *link) sendResets() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.resets {
		l.queue.push(p)
		p.DecRef()
	}
	l.resets = nil
	l.ready.Signal()
}

// isReset tells the segment that ends a connection without the other end's consent (RFC 9293, section 3.5.2).
func isReset(p *stack.PacketBuffer) bool {
	tcp := header.TCP(p.TransportHeader().Slice())
	return p.TransportProtocolNumber == header.TCPProtocolNumber && len(tcp) >= header.TCPMinimumSize && tcp.Flags().Contains(header.TCPFlagRst)
}

// queued returns how many bytes wait to be taken, with packetCost for each packet.
func (l *link) queued() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queue.bytes
}

// interrupt ends the take that waits, or else the next one that may wait.
func (l *link) interrupt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.interrupted = true
	l.ready.Signal()
}

// Close ends the queue; what is in it can still be taken.
func (l *link) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.ready.Broadcast()
}

// deliver hands a packet to the stack, in the caller's goroutine.
func (l *link) deliver(protocol tcpip.NetworkProtocolNumber, p *stack.PacketBuffer) {
	if d := l.dispatcher.Load(); d != nil {
		(*d).DeliverNetworkPacket(protocol, p)
	}
}

func (l *link) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&d)
}

func (l *link) IsAttached() bool { return l.dispatcher.Load() != nil }
func (l *link) MTU() uint32      { return l.mtu.Load() }
func (l *link) SetMTU(n uint32)  { l.mtu.Store(n) }

// SupportedGSO says that TCP may hand over packets longer than the MTU, without checksums: the host is our device.
func (l *link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }
func (l *link) GSOMaxSize() uint32               { return gsoMaxSize }

// What follows has no meaning on a link without headers and addresses.

func (l *link) Capabilities() stack.LinkEndpointCapabilities { return stack.CapabilityNone }
func (l *link) MaxHeaderLength() uint16                      { return 0 }
func (l *link) LinkAddress() tcpip.LinkAddress               { return "" }
func (l *link) SetLinkAddress(tcpip.LinkAddress)             {}
func (l *link) ARPHardwareType() header.ARPHardwareType      { return header.ARPHardwareNone }
func (l *link) AddHeader(*stack.PacketBuffer)                {}
func (l *link) ParseHeader(*stack.PacketBuffer) bool         { return true }
func (l *link) SetOnCloseAction(func())                      {}
func (l *link) Wait()                                        {}
