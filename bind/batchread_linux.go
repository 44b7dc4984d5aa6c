package bind

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// batchReader reads for a [BatchConn].
type batchReader struct {
	arena *arena // nil when it is used up
	errno unix.Errno
	call  func(fd uintptr) bool
}

// read returns the next packet, cut off where b ends.
func (r *batchReader) read(c *BatchConn, b []byte) (int, netip.AddrPort, error) {
	if r.call == nil {
		r.call = r.recvmmsg
	}
	for {
		if r.arena != nil {
			if p := r.arena.next(&c.group.stats); p != nil {
				return copy(b, p), r.arena.from.source.addrPort(), nil
			}
			arenas.Put(r.arena)
			r.arena = nil
		}
		c.group.Flush()
		if err := c.sock.raw.Read(r.call); err != nil {
			return 0, netip.AddrPort{}, err
		}
		if r.errno != 0 {
			return 0, netip.AddrPort{}, r.errno
		}
	}
}

// recvmmsg borrows an arena for what there is, and reports false to be called again when the socket is readable.
func (r *batchReader) recvmmsg(fd uintptr) bool {
	a := arenas.Get().(*arena)
	r.errno = a.fill(fd)
	if r.errno != 0 {
		arenas.Put(a)
		return r.errno != unix.EAGAIN
	}
	r.arena = a
	return true
}
