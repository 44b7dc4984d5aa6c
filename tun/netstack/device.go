package netstack

import (
	"context"
	"os"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
	wgtun "golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// tunDevice is the stack as wireguard-go sees it.
type tunDevice struct {
	s      *Stack
	mtu    int
	events chan wgtun.Event

	imu     sync.Mutex
	cancel  context.CancelFunc
	pending bool

	mu     sync.RWMutex // held for reading by Read and Write
	closed bool         // guarded by mu
}

var _ wgtun.Device = (*tunDevice)(nil)

func newDevice(s *Stack, mtu int) *tunDevice {
	d := &tunDevice{s: s, mtu: mtu, events: make(chan wgtun.Event, 1)}
	d.events <- wgtun.EventUp
	return d
}

// Read waits for one packet and takes along all that wait with it. After Close it hands out what had been queued, such
// as the resets of connections, before it fails with os.ErrClosed.
func (d *tunDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	ctx, cancel := context.WithCancel(d.s.ctx)
	d.imu.Lock()
	d.cancel = cancel
	pend := d.pending
	d.pending = false
	d.imu.Unlock()
	if pend {
		cancel()
	}
	packet := d.s.link.ReadContext(ctx)
	cancel()
	n := 0
	for {
		if packet == nil {
			packet = d.s.link.Read()
		}
		if packet == nil {
			break
		}
		sizes[n] = copyPacket(bufs[n][offset:], packet)
		packet.DecRef()
		packet = nil
		if n++; n == len(bufs) {
			break
		}
	}
	if n == 0 && d.s.ctx.Err() != nil {
		return 0, os.ErrClosed
	}
	return n, nil
}

func (d *tunDevice) Interrupt() {
	d.imu.Lock()
	defer d.imu.Unlock()
	d.pending = true
	if d.cancel != nil {
		d.cancel()
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

// Write hands packets to the stack, in the caller's goroutine. What is not IP is dropped.
func (d *tunDevice) Write(bufs [][]byte, offset int) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return 0, os.ErrClosed
	}
	for _, b := range bufs {
		b = b[offset:]
		if len(b) == 0 {
			continue
		}
		packet := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
		switch b[0] >> 4 {
		case header.IPv4Version:
			d.s.link.InjectInbound(header.IPv4ProtocolNumber, packet)
		case header.IPv6Version:
			d.s.link.InjectInbound(header.IPv6ProtocolNumber, packet)
		}
		packet.DecRef()
	}
	return len(bufs), nil
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
