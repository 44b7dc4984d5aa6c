//go:build !wice_portable

package bind

import (
	"net/netip"
	"syscall"

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

// dontFragment sets "don't fragment" on what the socket sends, whatever the kernel knows of the path.
func dontFragment(network string, c syscall.RawConn) (err error) {
	cerr := c.Control(func(fd uintptr) {
		if network == "udp6" {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
		}
	})
	if cerr != nil {
		return cerr
	}
	return err
}
