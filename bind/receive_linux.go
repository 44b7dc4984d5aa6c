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

// receiver has what receiving on one socket needs. It belongs to the goroutine that calls receive.
type receiver struct {
	sock   *socket
	closed <-chan struct{}
	d      *demux
	delay  time.Duration

	arena []byte
	msgs  [arenaSlots]message
	iovs  [arenaSlots]unix.Iovec
	names [arenaSlots]unix.RawSockaddrInet6
	ctrls [arenaSlots]control

	// the system call
	block bool
	errno unix.Errno
	call  func(fd uintptr) bool

	// what it brought: slot is the datagram being cut, of which off bytes are done
	got, slot, off int
	from           origin
	segment        int
}

// receiveFunc returns the ReceiveFunc of the socket.
func (s *socket) receiveFunc(d *demux, closed <-chan struct{}) conn.ReceiveFunc {
	r := &receiver{sock: s, closed: closed, d: d, arena: make([]byte, arenaSlots*arenaSlot)}
	r.call = r.recvmmsg
	for i := range r.msgs {
		r.iovs[i].Base = &r.arena[i*arenaSlot]
		r.iovs[i].SetLen(arenaSlot)
		r.msgs[i].hdr.Iov = &r.iovs[i]
		r.msgs[i].hdr.SetIovlen(1)
		r.msgs[i].hdr.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		r.msgs[i].hdr.Control = &r.ctrls[i].bytes()[0]
	}
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
	for i := range r.msgs {
		r.msgs[i].hdr.Namelen = unix.SizeofSockaddrInet6
		r.msgs[i].hdr.SetControllen(controlSize)
	}
	r.block, r.got, r.slot, r.off = wait, 0, 0, 0
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
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.msgs[0])), arenaSlots, unix.MSG_DONTWAIT, 0, 0)
		r.errno = errno
		switch errno {
		case 0:
			r.got = int(n)
			return true
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return !r.block
		default:
			return true
		}
	}
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
	for ; r.slot < r.got; r.slot, r.off = r.slot+1, 0 {
		m := &r.msgs[r.slot]
		size := int(m.n)
		if r.off == 0 {
			r.from = origin{source: decodeSource(&r.names[r.slot])}
			r.from.local, r.segment = r.ctrls[r.slot].parse(int(m.hdr.Controllen))
			if r.segment <= 0 {
				r.segment = max(size, 1)
			}
		}
		if m.hdr.Flags&unix.MSG_TRUNC != 0 {
			r.d.stats.dropped.Add(1)
			continue
		}
		data := r.arena[r.slot*arenaSlot:][:size]
		for r.off < size {
			if n == len(bufs) {
				return n
			}
			b := data[r.off:min(r.off+r.segment, size)]
			r.off += len(b)
			if ep := r.d.route(b, &r.from); ep != nil && len(b) <= len(bufs[n]) {
				sizes[n] = copy(bufs[n], b)
				eps[n] = ep
				n++
			}
		}
	}
	return n
}
