package bind

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wice-go/wice-go/proto/key"
	"golang.zx2c4.com/wireguard/conn"
)

// pathGrace is how long datagrams from the previous path still count as the peer's. Both ends switch within a round trip or so of
// each other, but the peer's own switch may wait for an offer to get through the signaling backend.
const pathGrace = 30 * time.Second

// heldLifetime is WireGuard's Rekey-Timeout: the least time between two initiations to one peer.
const heldLifetime = 5 * time.Second

// NoEndpoint is what [PeerEndpoint.DstToString] returns without a path. WireGuard's tools refuse the whole interface when one
// endpoint is not a numeric address and a port, and an empty one is not. No address prints like it, 0.0.0.0:0 included.
const NoEndpoint = "0.0.0.0:00"

// PeerEndpoint is the endpoint of a peer that ICE finds the paths to. It stays the same while the paths come and go, so that
// WireGuard is told of it once. All methods are safe for concurrent use.
//
// WireGuard moves a peer to whatever endpoint came with its last authentic packet. Packets from the current path's remote, from
// that of a path replaced less than half a minute ago and from a relay come with this endpoint, so that nothing moves. When a peer
// shows up somewhere else, after its NAT has rebound say, WireGuard moves to a plain [Endpoint] and the tunnel goes on; the
// next path that is set has to be handed to WireGuard again (SetEndpointFromPacket).
//
// It does so too with a packet that was received before the endpoint was removed: it may come to an endpoint that is dead, whatever it was given
// since. That one sends through the endpoint that the peer has by then, or else to where its last path led, as a plain endpoint would. It does not
// if that path was a relayed one or over TCP: the peer may be shown nothing else of us.
//
// # Locking
//
// Sending and receiving load path and nothing else. The mutex orders the changes of the path with the packet that waits for one.
// It is held neither while sending nor while the callback runs.
type PeerEndpoint struct {
	// immutable
	bind *Bind
	pk   key.Public

	// atomic
	path   atomic.Pointer[Path]
	last   atomic.Pointer[netip.AddrPort] // the remote of the newest path that was not nil; not the path, which has a connection
	direct atomic.Pointer[Endpoint]       // where that one led through the bind's own socket; nil: it was another way, or there was none
	wanted atomic.Pointer[func()]

	// watch is the discovery that waits for a large datagram, nil while none does.
	watch atomic.Pointer[discovery]

	// yielding holds initiations back although there is a path (see SetYield).
	yielding atomic.Bool

	mu        sync.Mutex // guards all following
	held      []byte     // the newest handshake initiation while there is no path
	heldAt    time.Time
	links     []*link // connections that are read from
	retired   map[*Path]*time.Timer
	discovery *discovery // of the MTU of the current path; nil: none
	removed   bool
}

var _ conn.Endpoint = (*PeerEndpoint)(nil)

// Path returns the current path, nil if there is none.
func (e *PeerEndpoint) Path() *Path { return e.path.Load() }

// SetWanted sets a function that is called when WireGuard has something to send and there is no path, at once if that waits already. It runs in
// WireGuard's sending goroutine with WireGuard's locks held: it must not block, nor call into WireGuard. Nil removes it.
func (e *PeerEndpoint) SetWanted(f func()) {
	if f == nil {
		e.wanted.Store(nil)
		return
	}
	e.wanted.Store(&f)
	e.mu.Lock()
	waits := e.held != nil && e.path.Load() == nil
	e.mu.Unlock()
	if waits {
		f()
	}
}

// SetPath makes p the path; nil drops the current one. What the previous path still brings counts for half a minute more. A
// handshake initiation that waited for a path goes on waiting for [PeerEndpoint.FlushHeld].
func (e *PeerEndpoint) SetPath(p *Path) {
	e.mu.Lock()
	if p != nil {
		remote := p.remote
		e.last.Store(&remote)
		e.direct.Store(p.dst)
	}
	if e.removed || p != nil && p == e.path.Load() {
		e.mu.Unlock()
		return
	}
	if p != nil {
		if _, again := e.retired[p]; again {
			p = p.clone()
		}
		if p.kind == pathConn {
			e.linkLocked(p)
		} else {
			e.bind.table.add(e, p)
		}
	}
	e.stopDiscoveryLocked()
	old := e.path.Swap(p)
	if old != nil {
		e.retireLocked(old)
	}
	e.mu.Unlock()
}

// SetYield leaves the next handshake to the peer: as long as it is set, initiations wait although there is a path. Of two peers whose path
// comes up one alone should begin, since initiations that cross undo each other, and WireGuard repeats them only after 5 s. Setting it
// to false drops what waited.
func (e *PeerEndpoint) SetYield(yield bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.yielding.Store(yield)
	if !yield {
		e.held = nil
	}
}

// FlushHeld yields no more: it sends the handshake initiation that waited for a path or for the peer's, and reports whether there
// was one.
func (e *PeerEndpoint) FlushHeld() bool {
	e.mu.Lock()
	p := e.path.Load()
	var held []byte
	if p != nil {
		e.yielding.Store(false)
		held, e.held = e.held, nil
		if time.Since(e.heldAt) >= heldLifetime {
			held = nil
		}
	}
	e.mu.Unlock()
	// An error would be about this path; WireGuard repeats the initiation, and ICE replaces a path that does not work.
	return held != nil && e.bind.sendPath([][]byte{held}, p) == nil
}

// holdInitiation keeps an initiation that is the peer's to make, and reports whether bufs were one: WireGuard sends them alone.
func (e *PeerEndpoint) holdInitiation(bufs [][]byte) bool {
	if len(bufs) != 1 || !isInitiation(bufs[0]) {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.yielding.Load() {
		return false
	}
	e.held, e.heldAt = append(e.held[:0], bufs[0]...), time.Now()
	return true
}

// linkLocked attaches the path to its connection. A connection that is read from already is not read from twice.
func (e *PeerEndpoint) linkLocked(p *Path) {
	if p.carrier != nil {
		p.carrier.attach(e)
	}
	e.links = slices.DeleteFunc(e.links, (*link).ended)
	for _, l := range e.links {
		if l.conn == p.conn && l.acquire() {
			p.link = l
			return
		}
	}
	p.link = e.bind.relay.newLink(p.conn, e)
	e.links = append(e.links, p.link)
}

// retireLocked lets go of a replaced path after the grace period.
func (e *PeerEndpoint) retireLocked(p *Path) {
	if e.retired == nil {
		e.retired = make(map[*Path]*time.Timer)
	}
	e.retired[p] = time.AfterFunc(pathGrace, func() {
		e.mu.Lock()
		delete(e.retired, p)
		e.mu.Unlock()
		e.release(p)
	})
}

func (e *PeerEndpoint) release(p *Path) {
	if p.kind == pathConn {
		p.link.release()
	} else {
		e.bind.table.remove(p)
	}
}

// successor returns what sends in the place of an endpoint that was removed; nil if it was not, or nothing may.
func (e *PeerEndpoint) successor() conn.Endpoint {
	e.mu.Lock()
	removed := e.removed
	e.mu.Unlock()
	if !removed {
		return nil
	}
	e.bind.peersMu.Lock()
	next := e.bind.peers[e.pk]
	e.bind.peersMu.Unlock()
	if next != nil {
		return next
	}
	if direct := e.direct.Load(); direct != nil {
		return direct
	}
	return nil
}

// remove drops everything that the bind has for the peer. The endpoint is dead from then on.
func (e *PeerEndpoint) remove() {
	e.mu.Lock()
	e.removed = true
	e.held = nil
	e.stopDiscoveryLocked()
	e.wanted.Store(nil)
	var paths []*Path
	if p := e.path.Swap(nil); p != nil {
		paths = append(paths, p)
	}
	for p, timer := range e.retired {
		if timer.Stop() {
			paths = append(paths, p)
		}
	}
	e.retired = nil
	e.links = nil
	e.mu.Unlock()
	for _, p := range paths {
		e.release(p)
	}
}

// hold keeps the newest handshake initiation among bufs for the path to come, and drops the rest: data without a session can't
// exist, and data of a session whose path is gone would be late. If a path has come meanwhile, it is returned.
func (e *PeerEndpoint) hold(bufs [][]byte) *Path {
	e.mu.Lock()
	if p := e.path.Load(); p != nil || e.removed {
		e.mu.Unlock()
		return p
	}
	for _, b := range slices.Backward(bufs) {
		if isInitiation(b) {
			e.held, e.heldAt = append(e.held[:0], b...), time.Now()
			break
		}
	}
	e.mu.Unlock()
	if f := e.wanted.Load(); f != nil {
		(*f)()
	}
	return nil
}

// accept decides about a datagram from a source that the table gives to this peer, received on l: true if it may come with this
// endpoint. It does not if the peer is a plain one so far (its path is an address of the configuration) and sends to another
// address of ours than before; then WireGuard is to decide, on authentic packets, where to answer from.
func (e *PeerEndpoint) accept(s source, l local) bool {
	p := e.path.Load()
	if p == nil || p.dst == nil || p.dst.key != s || !l.addr.IsValid() {
		return true
	}
	src := p.dst.src.Load()
	if src == nil {
		if p.dst.through.Load() != throughNo {
			p.dst.src.CompareAndSwap(nil, &local{addr: l.addr, ifindex: l.ifindex})
		}
		return true
	}
	return p.kind != pathStatic || src.addr == l.addr && (src.ifindex == 0 || src.ifindex == l.ifindex)
}

// ClearSrc implements [conn.Endpoint].
func (e *PeerEndpoint) ClearSrc() {
	if p := e.path.Load(); p != nil && p.dst != nil {
		p.dst.ClearSrc()
	}
}

// SrcIP implements [conn.Endpoint]: the address that the path sends from, zero if the kernel chooses.
func (e *PeerEndpoint) SrcIP() netip.Addr {
	switch p := e.path.Load(); {
	case p == nil:
		return netip.Addr{}
	case p.dst != nil:
		return p.dst.SrcIP()
	default:
		return p.local.Addr()
	}
}

// SrcToString implements [conn.Endpoint].
func (e *PeerEndpoint) SrcToString() string {
	if a := e.SrcIP(); a.IsValid() {
		return a.String()
	}
	return ""
}

// remote is the current path's remote address or, without a path, that of the last one: what still arrives came from there.
func (e *PeerEndpoint) remote() netip.AddrPort {
	if p := e.path.Load(); p != nil {
		return p.remote
	}
	if last := e.last.Load(); last != nil {
		return *last
	}
	return netip.AddrPort{}
}

// DstIP implements [conn.Endpoint]; it keys WireGuard's limit of handshakes.
func (e *PeerEndpoint) DstIP() netip.Addr { return e.remote().Addr() }

// DstToBytes implements [conn.Endpoint]: what WireGuard's cookies are made from.
func (e *PeerEndpoint) DstToBytes() []byte { return dstBytes(e.remote()) }

// DstToString implements [conn.Endpoint]: the address that is sent to, which "wg show" prints; [NoEndpoint] if there is none.
func (e *PeerEndpoint) DstToString() string {
	if p := e.path.Load(); p != nil && p.remote.IsValid() {
		return p.remote.String()
	}
	if next := e.successor(); next != nil {
		return next.DstToString()
	}
	return NoEndpoint
}

// PublicKey returns the peer that the endpoint belongs to.
func (e *PeerEndpoint) PublicKey() key.Public { return e.pk }
