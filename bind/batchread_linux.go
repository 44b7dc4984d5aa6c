//go:build !wice_portable

package bind

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// batchReader reads for a [BatchConn].
type batchReader struct{ borrower }

// read returns the next packet, cut off where b ends.
func (r *batchReader) read(c *BatchConn, b []byte) (int, netip.AddrPort, error) {
	for {
		if r.arena != nil {
			if p := r.arena.next(&c.group.stats); p != nil {
				return copy(b, p), r.arena.from.source.addrPort(), nil
			}
			r.release()
		}
		c.group.Flush()
		if err := r.wait(c.sock); err != nil {
			return 0, netip.AddrPort{}, err
		}
	}
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
