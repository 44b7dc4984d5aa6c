//go:build !linux

package bind

import (
	"errors"
	"net/netip"
)

// errNoRouteMTU says that this system does not tell how large a datagram may be that leaves in one piece.
var errNoRouteMTU = errors.New("the MTU of a route is not known here")

// routeMTU knows nothing: without it a probe could be fragmented, and its answer would mean nothing.
func routeMTU(netip.Addr, netip.AddrPort, controlFunc) (int, error) { return 0, errNoRouteMTU }
