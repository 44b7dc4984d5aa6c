package tun

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"github.com/wice-go/wice-go/tun/offload"
)

// batchSize is the number of packets that one Read or Write takes.
const batchSize = 128

// kernelDevice is an interface of the kernel, by its TUN device or by a packet socket, with ways of its own for the packets.
//
//	Read: port.receive until the batch is full or nothing is left -> offload.Splitter -> bufs
//	Write: offload.Coalescer -> port.send, from where the packets lie
//
// The file does not block, so its system calls are made without telling the scheduler (RawSyscall): a frame of 64 KiB takes tens of
// microseconds, and a thread that the scheduler knows to be gone for so long loses its processor to another one, which has to be woken.
//
// Read is called by one goroutine. Write is serialized. The port is used only in functions that the file's RawConn calls: Close returns
// after the last of them has.
type kernelDevice struct {
	link
	port
	raw syscall.RawConn

	interrupted atomic.Bool // an Interrupt that no Read has returned for
	gone        atomic.Bool // the interface, as a Read or Write was told

	// of the reader
	split    offload.Splitter
	bufs     [][]byte
	sizes    []int
	offset   int
	got      int
	readErr  error
	readCall func(fd uintptr) bool

	// of the writer
	writing   chan struct{} // a semaphore
	join      *offload.Coalescer
	pieces    [][]byte
	iovs      []unix.Iovec
	frames    [][]unix.Iovec // what is left to be sent
	writeErr  error
	writeCall func(fd uintptr) bool
}

// link is what a device has beside its packets: that of wireguard-go's TUN device, or a fixedLink.
type link interface {
	File() *os.File
	MTU() (int, error)
	Name() (string, error)
	Events() <-chan wgtun.Event
	Close() error
}

// port carries frames (package offload) between a device and its file. No method waits.
type port interface {
	// receive returns the next frame, which may be used and changed until the next call; EAGAIN if there is none.
	receive(fd uintptr) ([]byte, unix.Errno)
	// failed is asked before the reader waits whether anything can still come.
	failed(fd uintptr) unix.Errno
	// appendHead begins the n-th frame of a batch, of which first is the header and the first packet.
	appendHead(iovs []unix.Iovec, n int, first []byte) []unix.Iovec
	// send returns how many frames it has sent. An error is that of the first one.
	send(fd uintptr, frames [][]unix.Iovec) (int, unix.Errno)
}

var _ wgtun.Device = (*kernelDevice)(nil)

// newDevice takes over link's file, which must not block. If udp is set, the port takes joined UDP packets.
func newDevice(l link, p port, udp bool) (*kernelDevice, error) {
	raw, err := l.File().SyscallConn()
	if err != nil {
		return nil, err
	}
	d := &kernelDevice{link: l, port: p, raw: raw, writing: make(chan struct{}, 1), join: offload.NewCoalescer(udp)}
	d.readCall, d.writeCall = d.read, d.write
	return d, nil
}

// BatchSize implements [wgtun.Device].
func (d *kernelDevice) BatchSize() int { return batchSize }

// Read implements [wgtun.Device]. It waits for a packet, or for Interrupt, and then takes what is there without waiting. An error that matches
// [wgtun.ErrTooManySegments] is about one frame, which is lost; reading goes on behind it.
func (d *kernelDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	d.bufs, d.sizes, d.offset = bufs, sizes, offset
	for {
		d.got, d.readErr = 0, nil
		switch err := d.raw.Read(d.readCall); {
		case err == nil:
			return d.got, d.readErr
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return 0, os.ErrClosed
		}
		// With a deadline that has passed, readCall is not even called. An Interrupt that comes meanwhile has set the flag, which readCall looks at
		// before it waits; one that comes later sets the deadline anew.
		if err := d.File().SetReadDeadline(time.Time{}); err != nil {
			return 0, os.ErrClosed
		}
	}
}

// Interrupt makes the Read that waits for a packet, or else the next one that would have to wait, return without packets or error. Several may
// count as one. It may be called at any time, by any goroutine; after Close it does nothing.
func (d *kernelDevice) Interrupt() {
	d.interrupted.Store(true)
	_ = d.File().SetReadDeadline(time.Unix(1, 0)) // fails once the file is closed
}

// dropped makes an error of a frame that can't be cut into the one error of a read that wireguard-go goes on after, and logs. Others make it
// close the device.
func dropped(err error) error { return fmt.Errorf("%w: %w", wgtun.ErrTooManySegments, err) }

// read reports false to be called again when the device is readable.
func (d *kernelDevice) read(fd uintptr) bool {
	for d.got < len(d.bufs) {
		if d.split.Pending() {
			n, err := d.split.Next(d.bufs[d.got][d.offset:])
			if err != nil {
				d.readErr = dropped(err)
				return true
			}
			d.sizes[d.got] = n
			d.got++
			continue
		}
		frame, errno := d.receive(fd)
		if errno == unix.EAGAIN {
			if d.got > 0 {
				return true
			}
			if errno = d.failed(fd); d.gone.Load() {
				errno = unix.ENETDOWN
			}
			if errno == 0 {
				return d.interrupted.Load() && d.interrupted.Swap(false)
			}
		}
		switch {
		case errno == unix.EINTR:
			continue
		case isGone(errno):
			d.gone.Store(true) // the kernel says it once
			d.readErr = os.ErrClosed
			return true
		case errno != 0:
			d.readErr = fmt.Errorf("read from TUN: %w", errno)
			return true
		}
		if err := d.split.Load(frame); err != nil {
			d.readErr = dropped(err)
			return true
		}
	}
	return true
}

// isGone reports whether the interface was deleted: what a TUN device says then, and what a packet socket does.
func isGone(errno unix.Errno) bool {
	return errno == unix.EBADFD || errno == unix.ENETDOWN || errno == unix.ENXIO
}

// Write implements [wgtun.Device]. An error is that of some of the packets; the others are written.
func (d *kernelDevice) Write(bufs [][]byte, offset int) (int, error) {
	d.writing <- struct{}{}
	defer func() { <-d.writing }()
	n := d.join.Join(bufs, offset)
	// Frames refer to their part of it: it must not grow.
	d.iovs = slices.Grow(d.iovs[:0], len(bufs)+n)
	d.frames = slices.Grow(d.frames[:0], n)
	for i := range n {
		d.pieces = d.join.Frame(d.pieces[:0], i)
		from := len(d.iovs)
		d.iovs = d.appendHead(d.iovs, i, d.pieces[0])
		for _, p := range d.pieces[1:] {
			d.iovs = append(d.iovs, iovec(p))
		}
		d.frames = append(d.frames, d.iovs[from:])
	}
	all := d.frames
	d.writeErr = nil
	err := d.raw.Write(d.writeCall)
	clear(d.iovs)
	clear(d.pieces)
	d.frames = all
	if err != nil || d.gone.Load() {
		return 0, os.ErrClosed
	}
	if d.writeErr != nil {
		return 0, d.writeErr
	}
	return len(bufs), nil
}

func iovec(b []byte) unix.Iovec {
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	return v
}

// write reports false to be called again when the device is writable.
func (d *kernelDevice) write(fd uintptr) bool {
	for len(d.frames) > 0 {
		n, errno := d.send(fd, d.frames)
		switch {
		case errno == 0:
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			return false
		case isGone(errno):
			d.gone.Store(true)
			d.Interrupt() // what the kernel has told the writer it does not tell the reader
			return true
		default:
			d.writeErr = errors.Join(d.writeErr, fmt.Errorf("write to TUN: %w", errno))
			n = 1
		}
		d.frames = d.frames[n:]
	}
	return true
}

// tunPort is the file of a TUN device with IFF_VNET_HDR.
type tunPort struct {
	frame [offload.MaxFrame]byte
}

// newTUN makes a device of a TUN file with IFF_VNET_HDR.
func newTUN(l link) (*kernelDevice, error) {
	raw, err := l.File().SyscallConn()
	if err != nil {
		return nil, err
	}
	const tcp, udp = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6, unix.TUN_F_USO4 | unix.TUN_F_USO6
	var setErr error
	hasUDP := false
	err = raw.Control(func(fd uintptr) {
		hasUDP = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, tcp|udp) == nil // since Linux 6.2
		if !hasUDP {
			setErr = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, tcp)
		}
	})
	if err = errors.Join(err, setErr); err != nil {
		return nil, fmt.Errorf("TUNSETOFFLOAD: %w", err)
	}
	return newDevice(l, new(tunPort), hasUDP)
}

func (p *tunPort) receive(fd uintptr) ([]byte, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&p.frame[0])), uintptr(len(p.frame)))
	if errno != 0 {
		return nil, errno
	}
	return p.frame[:n], 0
}

// failed has nothing to say: receive says it.
func (p *tunPort) failed(uintptr) unix.Errno { return 0 }

func (p *tunPort) appendHead(iovs []unix.Iovec, _ int, first []byte) []unix.Iovec {
	return append(iovs, iovec(first))
}

func (p *tunPort) send(fd uintptr, frames [][]unix.Iovec) (int, unix.Errno) {
	f := frames[0]
	_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&f[0])), uintptr(len(f)))
	return 1, errno
}
