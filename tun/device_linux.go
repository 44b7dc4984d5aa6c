package tun

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"github.com/wice-go/wice-go/tun/offload"
)

// batchSize is the number of packets that one Read or Write takes.
const batchSize = 128

// kernelDevice is the kernel's TUN device with ways of its own for the packets; names, events and MTU are those of wireguard-go.
//
//	Read: read(2) until the batch is full or nothing is left -> offload.Splitter -> bufs
//	Write: offload.Coalescer -> one writev(2) for each frame, from where the packets lie
//
// The file does not block, so its system calls are made without telling the scheduler (RawSyscall): a frame of 64 KiB takes tens of
// microseconds, and a thread that the scheduler knows to be gone for so long loses its processor to another one, which has to be woken.
//
// Read is called by one goroutine. Write is serialized.
type kernelDevice struct {
	*wgtun.NativeTun
	raw syscall.RawConn

	// of the reader
	frame    [offload.MaxFrame]byte
	split    offload.Splitter
	wait     bool
	got      int
	readErr  unix.Errno
	readCall func(fd uintptr) bool

	// of the writer
	writing   chan struct{} // a semaphore
	join      *offload.Coalescer
	pieces    [][]byte
	iovs      []unix.Iovec
	writeErr  unix.Errno
	writeCall func(fd uintptr) bool
}

var _ wgtun.Device = (*kernelDevice)(nil)

// newDevice takes over a TUN device with IFF_VNET_HDR.
func newDevice(native *wgtun.NativeTun) (*kernelDevice, error) {
	raw, err := native.File().SyscallConn()
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
	d := &kernelDevice{NativeTun: native, raw: raw, writing: make(chan struct{}, 1), join: offload.NewCoalescer(hasUDP)}
	d.readCall, d.writeCall = d.read, d.writev
	return d, nil
}

// BatchSize implements [wgtun.Device].
func (d *kernelDevice) BatchSize() int { return batchSize }

// Read implements [wgtun.Device]. It waits for a packet, and then takes what is there without waiting. An error that matches
// [wgtun.ErrTooManySegments] is about one frame, which is lost; reading goes on behind it.
func (d *kernelDevice) Read(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	for n < len(bufs) {
		if d.split.Pending() {
			if sizes[n], err = d.split.Next(bufs[n][offset:]); err != nil {
				return n, dropped(err)
			}
			n++
			continue
		}
		d.wait, d.got, d.readErr = n == 0, 0, 0
		if err := d.raw.Read(d.readCall); err != nil {
			return n, os.ErrClosed
		}
		switch d.readErr {
		case 0:
		case unix.EAGAIN:
			return n, nil
		case unix.EBADFD: // the interface was deleted
			return n, os.ErrClosed
		default:
			return n, fmt.Errorf("read from TUN: %w", d.readErr)
		}
		if err := d.split.Load(d.frame[:d.got]); err != nil {
			return n, dropped(err)
		}
	}
	return n, nil
}

// dropped makes an error of a frame that can't be cut into the one error of a read that wireguard-go goes on after, and logs. Others make it
// close the device.
func dropped(err error) error { return fmt.Errorf("%w: %w", wgtun.ErrTooManySegments, err) }

// read reports false to be called again when the device is readable.
func (d *kernelDevice) read(fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&d.frame[0])), uintptr(len(d.frame)))
		d.readErr = errno
		switch errno {
		case 0:
			d.got = int(n)
			return true
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return !d.wait
		default:
			return true
		}
	}
}

// Write implements [wgtun.Device]. An error is that of some of the packets; the others are written.
func (d *kernelDevice) Write(bufs [][]byte, offset int) (int, error) {
	d.writing <- struct{}{}
	defer func() { <-d.writing }()
	var errs error
	for i := range d.join.Join(bufs, offset) {
		d.pieces = d.join.Frame(d.pieces[:0], i)
		d.iovs = d.iovs[:0]
		for _, p := range d.pieces {
			iov := unix.Iovec{Base: unsafe.SliceData(p)}
			iov.SetLen(len(p))
			d.iovs = append(d.iovs, iov)
		}
		if err := d.raw.Write(d.writeCall); err != nil || d.writeErr == unix.EBADFD {
			return 0, os.ErrClosed
		}
		if d.writeErr != 0 {
			errs = errors.Join(errs, fmt.Errorf("write to TUN: %w", d.writeErr))
		}
	}
	clear(d.iovs)
	clear(d.pieces)
	if errs != nil {
		return 0, errs
	}
	return len(bufs), nil
}

// writev reports false to be called again when the device is writable.
func (d *kernelDevice) writev(fd uintptr) bool {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&d.iovs[0])), uintptr(len(d.iovs)))
		d.writeErr = errno
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		default:
			return true
		}
	}
}
