package bind

import (
	"net"
	"net/netip"
)

type pathKind uint8

const (
	pathDirect pathKind = iota + 1
	pathStatic
	pathConn
)

// Path is a way to a peer. It is immutable, and belongs to one peer.
type Path struct {
	kind   pathKind
	local  netip.AddrPort
	remote netip.AddrPort
	dst    *Endpoint // direct and static
	conn   net.Conn  // conn
	link   *link     // conn; set by SetPath before the path is published

	carrier Carrier // conn; nil: everything goes through the connection
}

// NewDirectPath returns the path to remote through the bind's own socket: what ICE selected between two UDP candidates neither of
// which is a relay. Local is the base of the local candidate, the address to send from; zero leaves it to the kernel. A given
// local address stays: only a send that fails because of it falls back to the kernel's choice.
func NewDirectPath(local netip.Addr, remote netip.AddrPort) *Path {
	return newUDPPath(pathDirect, local, remote)
}

// NewStaticPath returns the path to an address of the configuration ("Endpoint ="). The source of the first datagram from there
// is kept as with a plain peer. Unlike the remote of a direct path it is not proven to be the peer's: see sourceTable for what
// happens when two peers have the same one.
func NewStaticPath(remote netip.AddrPort) *Path {
	return newUDPPath(pathStatic, netip.Addr{}, remote)
}

func newUDPPath(kind pathKind, from netip.Addr, remote netip.AddrPort) *Path {
	from = from.Unmap().WithZone("")
	remote = unmapPort(remote)
	e := newEndpoint(remote, local{addr: from})
	e.pinned = from.IsValid()
	return &Path{kind: kind, local: netip.AddrPortFrom(from, 0), remote: remote, dst: e}
}

// NewConnPath returns the path through a message-oriented connection, in practice an *ice.Conn whose selected pair is relayed or
// runs over TCP. The connection stays the caller's: closing it ends the path's goroutines. Local and remote are those of the pair;
// they are for people, for WireGuard's cookies and for its limit of handshakes.
func NewConnPath(c net.Conn, local, remote netip.AddrPort) *Path {
	return &Path{kind: pathConn, local: unmapPort(local), remote: unmapPort(remote), conn: c}
}

// NewRelayPath returns the path through our own relay: packets go through the carrier once the channel to the remote is bound, and through
// the connection before. See [NewConnPath] for the rest.
func NewRelayPath(carrier Carrier, c net.Conn, local, remote netip.AddrPort) *Path {
	p := NewConnPath(c, local, remote)
	p.carrier = carrier
	return p
}

// Local returns the local address of the path as far as it is known. The port is that of the bind if it is zero.
func (p *Path) Local() netip.AddrPort { return p.local }

// Remote returns the address that the path leads to.
func (p *Path) Remote() netip.AddrPort { return p.remote }

// Direct reports whether the path uses the bind's own socket.
func (p *Path) Direct() bool { return p.kind != pathConn }

// clone returns a copy of a path through a UDP socket, for a peer that is given a path of which it already has had one: then the
// table can tell the claims of both apart.
func (p *Path) clone() *Path {
	c := *p
	return &c
}
