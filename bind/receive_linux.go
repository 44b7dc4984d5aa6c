//go:build !wice_portable

package bind

import (
	"errors"
	"net"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

const (
	// arenaSlots is the number of datagrams that one system call takes, each of which may be up to 64 joined packets.
	arenaSlots = 16
	arenaSlot  = 1 << 16

	// After an error that is not the closing of the socket (the kernel is out of memory, say) the receiver waits and goes on.
	minReceiveDelay = 10 * time.Millisecond
	maxReceiveDelay = time.Second
)

// arena has what receiving on one socket needs. It belongs to one goroutine at a time.
type arena struct {
	data  []byte
	msgs  [arenaSlots]message
	iovs  [arenaSlots]unix.Iovec
	names [arenaSlots]unix.RawSockaddrInet6
	ctrls [arenaSlots]control

	// what the last call brought: slot is the datagram being cut, of which off bytes are done
	got, slot, off int
	from           origin
	segment        int
}

func newArena() *arena {
	a := &arena{data: make([]byte, arenaSlots*arenaSlot)}
	for i := range a.msgs {
		a.iovs[i].Base = &a.data[i*arenaSlot]
		a.iovs[i].SetLen(arenaSlot)
		a.msgs[i].hdr.Iov = &a.iovs[i]
		a.msgs[i].hdr.SetIovlen(1)
		a.msgs[i].hdr.Name = (*byte)(unsafe.Pointer(&a.names[i]))
		a.msgs[i].hdr.Control = &a.ctrls[i].bytes()[0]
	}
	return a
}

// receiver receives for WireGuard. It belongs to the goroutine that calls receive.
type receiver struct {
	*arena
	sock   *socket
	closed <-chan struct{}
	d      *demux
	delay  time.Duration

	// the system call
	block bool
	errno unix.Errno
	call  func(fd uintptr) bool
}

// receiveFunc returns the ReceiveFunc of the socket.
func (s *socket) receiveFunc(d *demux, closed <-chan struct{}) conn.ReceiveFunc {
	r := &receiver{arena: newArena(), sock: s, closed: closed, d: d}
	r.call = r.recvmmsg
	if s.v6 {
		return r.receiveIPv6
	}
	return r.receiveIPv4
}

// The names of these two are what WireGuard's log shows.

func (r *receiver) receiveIPv4(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	return r.receive(bufs, sizes, eps)
}

func (r *receiver) receiveIPv6(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	return r.receive(bufs, sizes, eps)
}

// receive implements [conn.ReceiveFunc]. It fills bufs as far as it can without waiting, and waits only while it has nothing.
// What is not for WireGuard does not use a slot up, so that there are no gaps.
func (r *receiver) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (n int, err error) {
	for {
		n = r.cut(n, bufs, sizes, eps)
		if n == len(bufs) || n > 0 && r.got < arenaSlots {
			return n, nil // full, or the last call had found all there was
		}
		more, err := r.read(n == 0)
		if err != nil {
			return 0, err
		}
		if !more && n > 0 {
			return n, nil
		}
	}
}

// read fills the arena. Without wait it reports false when there is nothing.
func (r *receiver) read(wait bool) (bool, error) {
	r.block = wait
	if err := r.sock.raw.Read(r.call); err != nil {
		if !errors.Is(err, net.ErrClosed) {
			return false, r.pause()
		}
		return false, net.ErrClosed
	}
	switch r.errno {
	case 0:
		r.delay = 0
		return true, nil
	case unix.EAGAIN:
		return false, nil
	default:
		return false, r.pause()
	}
}

// recvmmsg reports false to be called again when the socket is readable.
func (r *receiver) recvmmsg(fd uintptr) bool {
	r.errno = r.fill(fd)
	return r.errno != unix.EAGAIN || !r.block
}

// pause waits a little longer after each error in a row, or until the bind is closed.
func (r *receiver) pause() error {
	r.delay = min(max(2*r.delay, minReceiveDelay), maxReceiveDelay)
	t := time.NewTimer(r.delay)
	defer t.Stop()
	select {
	case <-r.closed:
		return net.ErrClosed
	case <-t.C:
		return nil
	}
}

// cut moves packets from the arena to bufs[n:] and returns the new n. It stops when either is used up.
func (r *receiver) cut(n int, bufs [][]byte, sizes []int, eps []conn.Endpoint) int {
	for n < len(bufs) {
		b := r.next(r.d.stats)
		if b == nil {
			break
		}
		if ep := r.d.route(b, &r.from); ep != nil && len(b) <= len(bufs[n]) {
			sizes[n] = copy(bufs[n], b)
			eps[n] = ep
			n++
		}
	}
	return n
}

// fill takes what is there, without waiting. What the last call brought is gone.
func (a *arena) fill(fd uintptr) unix.Errno {
	a.got, a.slot, a.off = 0, 0, 0
	for i := range a.msgs {
		a.msgs[i].hdr.Namelen = unix.SizeofSockaddrInet6
		a.msgs[i].hdr.SetControllen(controlSize)
	}
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&a.msgs[0])), arenaSlots, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			a.got = int(n)
			return 0
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// next returns the next packet, whose origin is then from; nil when there is none.
func (a *arena) next(stats *counters) []byte {
	for ; a.slot < a.got; a.slot, a.off = a.slot+1, 0 {
		m := &a.msgs[a.slot]
		size := int(m.n)
		if a.off == 0 {
			a.from = origin{source: decodeSource(&a.names[a.slot])}
			a.from.local, a.segment = a.ctrls[a.slot].parse(int(m.hdr.Controllen))
			if a.segment <= 0 {
				a.segment = max(size, 1)
			}
		}
		if m.hdr.Flags&unix.MSG_TRUNC != 0 {
			stats.dropped.Add(1)
			continue
		}
		if a.off < size {
			b := a.data[a.slot*arenaSlot:][:size][a.off:min(a.off+a.segment, size)]
			a.off += len(b)
			return b
		}
	}
	return nil
}
