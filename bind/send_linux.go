//go:build !wice_portable

package bind

import (
	"fmt"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxSegments is the kernel's limit of packets in one message with UDP_SEGMENT (UDP_MAX_SEGMENTS of the kernels before 6.9).
	maxSegments = 64
	// The longest payloads that the 16-bit lengths of IPv4 and of UDP over IPv6 leave room for.
	maxPayload4 = 1<<16 - 1 - 20 - 8
	maxPayload6 = 1<<16 - 1 - 8

	// sendPatience is how long Send waits when the socket's buffer is full, i.e. when the network card has some thousand packets
	// waiting. A short wait slows the source down without losing anything. More is not to be had: WireGuard holds a lock that
	// closing the bind needs, and after that all peers.
	sendPatience = 20 * time.Millisecond
)

// sender has what one call of send needs. It belongs to one call at a time.
type sender struct {
	// the call
	ep      *Endpoint
	channel uint16 // in front of each packet; 0: nothing is
	src     *local
	gso     bool
	bufs    [][]byte

	msgs    [batchSize]message
	iovs    [2 * batchSize]unix.Iovec // header and packet, or packets alone
	headers [batchSize][channelHeaderSize]byte
	ctrls   [batchSize]control
	first   [batchSize]int // the index in bufs of each message's first packet
	count   [batchSize]int // and the number of its packets

	// the system call
	next, end int // messages
	most      int // of all ends of a batch
	sent      int
	errno     unix.Errno
	waits     int // milliseconds
	call      func(fd uintptr)
}

var senders = sync.Pool{New: func() any {
	s := new(sender)
	s.call = s.sendmmsg // bound once: making it at each call would allocate
	return s
}}

// send sends the packets to the endpoint, each as ChannelData if channel is not 0. It returns the number of packets dropped because the
// buffer stayed full.
func (s *socket) send(bufs [][]byte, ep *Endpoint, channel uint16) (dropped int, err error) {
	c := senders.Get().(*sender)
	defer func() {
		c.ep = nil
		senders.Put(c)
	}()
	c.ep, c.channel, c.waits = ep, channel, 0
	for len(bufs) > 0 {
		n := min(len(bufs), batchSize)
		d, err := c.batch(s, bufs[:n])
		dropped += d
		if err != nil {
			return dropped, fmt.Errorf("send to %s: %w", ep.dst, err)
		}
		bufs = bufs[n:]
	}
	return dropped, nil
}

// batch sends up to batchSize packets, and repairs what can be repaired:
//
//	EIO             the network card can't do the checksums that UDP_SEGMENT needs: never use it again on this socket
//	EINVAL, EMSGSIZE with UDP_SEGMENT: the packets are longer than the path's MTU; without it the kernel fragments them
//	EINVAL, ENODEV, ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL with a source: it is no address of ours any more, its interface is
//	                gone, or it does not lead there
func (c *sender) batch(s *socket, bufs [][]byte) (dropped int, err error) {
	c.gso = s.gso.Load()
	c.src = s.source(c.ep)
	defer c.reset(len(bufs))
	for {
		c.bufs = bufs
		c.prepare(c.ep.dst.Addr().Is6()) // a socket of IPv6 may send IPv4
		for c.next < c.end && c.errno == 0 {
			if err := s.raw.Control(c.call); err != nil {
				return dropped, err
			}
			c.next += c.sent
		}
		if c.errno == 0 {
			return dropped, nil
		}
		bufs = bufs[c.first[c.next]:]
		switch segmented := c.gso && c.segmented(); {
		case c.errno == unix.EAGAIN:
			return dropped + len(bufs), nil
		case segmented && c.errno == unix.EIO:
			s.gso.Store(false)
			c.gso = false
		case segmented && (c.errno == unix.EINVAL || c.errno == unix.EMSGSIZE):
			c.gso = false
		case c.src != nil && !c.ep.strict && badSource(c.errno):
			if c.ep.src.CompareAndSwap(c.src, nil) {
				c.ep.through.Store(throughUnknown)
			}
			c.src = nil
		default:
			return dropped, c.errno
		}
	}
}

// segmented reports whether the message that failed was to be cut by the kernel.
func (c *sender) segmented() bool { return c.count[c.next] > 1 }

func badSource(e unix.Errno) bool {
	return e == unix.EINVAL || e == unix.ENODEV || e == unix.ENETUNREACH || e == unix.EHOSTUNREACH || e == unix.EADDRNOTAVAIL
}

// prepare fills in the messages for bufs. With UDP_SEGMENT one message takes packets of one size, of which the last may be
// shorter; they are gathered where they lie.
func (c *sender) prepare(v6 bool) {
	limit := maxPayload4
	if v6 {
		limit = maxPayload6
	}
	c.next, c.end, c.errno = 0, 0, 0
	overhead := 0
	if c.channel != 0 {
		overhead = channelHeaderSize
	}
	for i := 0; i < len(c.bufs); {
		size := len(c.bufs[i])
		total, n := 0, 0
		for i+n < len(c.bufs) {
			l := len(c.bufs[i+n])
			if n > 0 && (!c.gso || l == 0 || l > size || n == maxSegments || total+l+overhead > limit) {
				break
			}
			c.gather(i + n)
			total += l + overhead
			n++
			if l < size {
				break
			}
		}
		c.prepareMessage(i, n, size+overhead)
		i += n
	}
	c.most = max(c.most, c.end)
}

// gather points to the i-th packet, and to a header in front of it if there is to be one.
func (c *sender) gather(i int) {
	b := c.bufs[i]
	iov := &c.iovs[i]
	if c.channel != 0 {
		header := &c.headers[i]
		putChannelHeader(header, c.channel, len(b))
		c.iovs[2*i].Base = &header[0]
		c.iovs[2*i].SetLen(len(header))
		iov = &c.iovs[2*i+1]
	}
	iov.Base = unsafe.SliceData(b)
	iov.SetLen(len(b))
}

// prepareMessage makes one message of n packets from the i-th on.
func (c *sender) prepareMessage(i, n, size int) {
	m, ctrl := &c.msgs[c.end], &c.ctrls[c.end]
	c.first[c.end], c.count[c.end] = i, n
	c.end++

	m.hdr.Name = (*byte)(unsafe.Pointer(&c.ep.sa.raw))
	m.hdr.Namelen = c.ep.sa.len
	if c.channel != 0 {
		m.hdr.Iov = &c.iovs[2*i]
		m.hdr.SetIovlen(2 * n)
	} else {
		m.hdr.Iov = &c.iovs[i]
		m.hdr.SetIovlen(n)
	}

	used := 0
	if c.src != nil {
		used = ctrl.putSource(used, c.src)
	}
	if n > 1 {
		used = ctrl.putSegmentSize(used, size)
	}
	m.hdr.Control = nil
	if used > 0 {
		m.hdr.Control = &ctrl.bytes()[0]
	}
	m.hdr.SetControllen(used)
}

// sendmmsg sends from the next message on, and waits a little if there is no room. It runs with the descriptor held.
func (c *sender) sendmmsg(fd uintptr) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&c.msgs[c.next])), uintptr(c.end-c.next), unix.MSG_DONTWAIT, 0, 0)
		c.sent, c.errno = int(n), errno
		switch errno {
		case 0:
			return
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			c.sent = 0
			if !c.wait(int32(fd)) {
				return
			}
		default:
			c.sent = 0
			return
		}
	}
}

// wait polls until there is room in the socket's buffer, and reports false when the patience of the call is used up.
func (c *sender) wait(fd int32) bool {
	left := int(sendPatience.Milliseconds()) - c.waits
	if left <= 0 {
		return false
	}
	start := time.Now()
	fds := [1]unix.PollFd{{Fd: fd, Events: unix.POLLOUT}}
	n, err := unix.Poll(fds[:], left)
	c.waits += max(1, int(time.Since(start).Milliseconds()))
	return n > 0 || err == unix.EINTR
}

// reset drops the references to the packets.
func (c *sender) reset(n int) {
	c.src, c.bufs = nil, nil
	if c.channel != 0 {
		n *= 2
	}
	clear(c.iovs[:n])
	for i := range c.msgs[:c.most] {
		c.msgs[i].hdr.Name = nil
	}
	c.most = 0
}
