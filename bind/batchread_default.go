//go:build !linux || wice_portable

package bind

import (
	"net/netip"
	"syscall"
)

// batchReader reads for a [BatchConn].
type batchReader struct{}

// read returns the next packet, cut off where b ends.
func (r *batchReader) read(c *BatchConn, b []byte) (int, netip.AddrPort, error) {
	c.group.Flush()
	n, from, err := c.UDPConn.ReadFromUDPAddrPort(b)
	return n, unmapPort(from), err
}

// dontFragment leaves the choice to the system.
func dontFragment(string, syscall.RawConn) error { return nil }
