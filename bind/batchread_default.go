//go:build !linux

package bind

import "net/netip"

// batchReader reads for a [BatchConn].
type batchReader struct{}

// read returns the next packet, cut off where b ends.
func (r *batchReader) read(c *BatchConn, b []byte) (int, netip.AddrPort, error) {
	c.group.Flush()
	n, from, err := c.UDPConn.ReadFromUDPAddrPort(b)
	return n, unmapPort(from), err
}
