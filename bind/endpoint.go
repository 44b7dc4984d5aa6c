package bind

import (
	"net/netip"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"
)

// Endpoint is a remote address together with the local address that answers it: all that the bind knows about a plain peer.
// The destination never changes; the source is set from a datagram that arrived and cleared by WireGuard, by a failed send, or
// when the network changes. All methods are safe for concurrent use.
type Endpoint struct {
	// immutable
	dst    netip.AddrPort
	key    source
	sa     sockaddr // dst, as the kernel wants it
	from   local    // where the datagram arrived that this endpoint was made from; zero for a configured one
	pinned bool     // src is an ICE candidate's base: WireGuard does not clear it, as another source would be another candidate
	strict bool     // not even a failed send clears it: for ICE's own checks

	// atomic
	src     atomic.Pointer[local] // nil: the kernel chooses
	through atomic.Uint32         // whether there is a route through the interface of src, or of the one that was let go of (Linux)
}

// The values of through.
const (
	throughUnknown = iota
	throughYes
	throughNo
)

var _ conn.Endpoint = (*Endpoint)(nil)

// newEndpoint returns an endpoint that sends from src, which may be zero.
func newEndpoint(dst netip.AddrPort, src local) *Endpoint {
	dst = unmapPort(dst)
	e := &Endpoint{dst: dst, key: sourceOf(dst), sa: encodeSockaddr(dst), from: src}
	e.stick()
	return e
}

// stick makes the endpoint send from where its datagrams arrive, unless that is known to lead nowhere.
func (e *Endpoint) stick() {
	if e.from.addr.IsValid() && e.src.Load() == nil && e.through.Load() != throughNo {
		e.src.Store(&e.from)
	}
}

// ClearSrc implements [conn.Endpoint]: the kernel chooses the source until the next datagram arrives from this endpoint.
func (e *Endpoint) ClearSrc() {
	if !e.pinned {
		e.src.Store(nil)
		e.through.Store(throughUnknown)
	}
}

// SrcIP implements [conn.Endpoint]. The zero address means that the kernel chooses.
func (e *Endpoint) SrcIP() netip.Addr {
	if s := e.src.Load(); s != nil {
		return s.addr
	}
	return netip.Addr{}
}

// SrcToString implements [conn.Endpoint].
func (e *Endpoint) SrcToString() string {
	if a := e.SrcIP(); a.IsValid() {
		return a.String()
	}
	return ""
}

// DstIP implements [conn.Endpoint]; it keys WireGuard's limit of handshakes.
func (e *Endpoint) DstIP() netip.Addr { return e.dst.Addr() }

// DstToString implements [conn.Endpoint]: what "wg show" prints.
func (e *Endpoint) DstToString() string { return e.dst.String() }

// DstToBytes implements [conn.Endpoint]: what WireGuard's cookies are made from.
func (e *Endpoint) DstToBytes() []byte { return dstBytes(e.dst) }

func dstBytes(ap netip.AddrPort) []byte {
	b, _ := ap.MarshalBinary() // never fails
	return b
}
