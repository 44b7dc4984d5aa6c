// Package bind carries WireGuard's packets. It implements wireguard-go's conn.Bind over one UDP socket per address family, which
// WireGuard shares with ICE and STUN, so that what ICE opened in a NAT is what the data uses.
//
//	WireGuard -> Bind.Send -> PeerEndpoint.path -> direct: one sendmmsg on the shared socket
//	                                             -> else:   the queue of a connection (relayed pair or TCP)
//	socket -> ReceiveFunc -> WireGuard's shape: sourceTable or endpointCache -> WireGuard
//	                      -> STUN:              Mux -> pion's agents
//	connection -> shared queue -> ReceiveFunc -> WireGuard
//
// Peers that ICE connects have a [PeerEndpoint], whose [Path] the session exchanges underneath WireGuard. All others are plain
// WireGuard peers with an [Endpoint], on the same port.
//
// # Locking
//
// Sending and receiving take no lock: they load atomic pointers. Bind.mu serializes Open, Close and the settings; peersMu guards the
// map of peers. Neither is held while a callback runs. Order: Bind.mu, peersMu, PeerEndpoint.mu, sourceTable.mu, discovery.mu or foreign.mu.
package bind

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/wice-go/wice-go/proto/key"
	"golang.zx2c4.com/wireguard/conn"
)

// Options are the settings of a [Bind]. The zero value is useful.
type Options struct {
	// Logger is for what an operator can act on; nil discards.
	Logger *slog.Logger
	// Exclude reports the addresses that are never listed as candidates and whose STUN is dropped: those inside the tunnel. It is
	// called often and concurrently. Nil excludes nothing.
	Exclude func(netip.Addr) bool
	// ExcludeInterface reports the network interfaces that have no candidates: WireGuard's own. Nil excludes none.
	ExcludeInterface func(name string) bool
	// IncludeLoopback lists loopback addresses as candidates even if there are others.
	IncludeLoopback bool
}

// Bind implements [conn.Bind]. All methods are safe for concurrent use.
type Bind struct {
	// immutable
	log   *slog.Logger
	open  listenFunc
	table *sourceTable
	cache *endpointCache
	relay *relay
	mux   *Mux
	stats counters

	// atomic
	socks atomic.Pointer[sockets] // nil while closed
	mark  atomic.Uint32

	mu sync.Mutex // serializes Open, Close, SetMark

	others foreign // sockets that are not the bind's

	discoveries sync.WaitGroup // the goroutines of the peers' discoveries

	peersMu sync.Mutex // guards peers
	peers   map[key.Public]*PeerEndpoint
}

var _ conn.Bind = (*Bind)(nil)

// New returns a closed bind. [Bind.Shutdown] ends it for good.
func New(o Options) *Bind {
	b := &Bind{
		log:   o.Logger,
		open:  listen,
		table: newSourceTable(),
		cache: newEndpointCache(),
		peers: make(map[key.Public]*PeerEndpoint),
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.relay = newRelay(&b.stats)
	b.mux = newMux(b, o)
	return b
}

// Open implements [conn.Bind]. The bind can be opened and closed any number of times; peers, paths, connections and the mux stay.
// There is one ReceiveFunc per address family of the host, and one for all connections.
func (b *Bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.socks.Load() != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	s, err := listenBoth(b.open, port, b.mark.Load())
	if err != nil {
		return nil, 0, err
	}
	d := &demux{table: b.table, cache: b.cache, mux: b.mux, stats: &b.stats}
	var fns []conn.ReceiveFunc
	for _, sock := range []*socket{s.v4, s.v6} {
		if sock != nil {
			fns = append(fns, sock.receiveFunc(d, s.closed))
		}
	}
	fns = append(fns, b.relay.receive(s.closed))
	b.mux.rebound()
	b.socks.Store(s)
	b.log.Debug("bind open", "port", s.port, "ipv4", s.v4 != nil, "ipv6", s.v6 != nil)
	return fns, s.port, nil
}

// Close implements [conn.Bind]: the ReceiveFuncs return [net.ErrClosed]. Closing a closed bind does nothing.
func (b *Bind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.socks.Swap(nil)
	if s == nil {
		return nil
	}
	return s.close()
}

// Shutdown closes the bind and its mux, and drops all peers. It does not wait for the readers of connections that have no
// deadlines (ice.Conn): they end when the connections' owners close them.
func (b *Bind) Shutdown() error {
	err := b.Close()
	b.peersMu.Lock()
	peers := b.peers
	b.peers = make(map[key.Public]*PeerEndpoint)
	b.peersMu.Unlock()
	for _, e := range peers {
		e.remove()
	}
	b.discoveries.Wait()
	b.mux.Close()
	return err
}

// SetMark implements [conn.Bind]: the mark (Linux: SO_MARK, FreeBSD: SO_USER_COOKIE) of what the sockets send from now on: its own, and those
// that [Bind.ControlSocket] was applied to, now and later.
func (b *Bind) SetMark(mark uint32) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.socks.Load(); s != nil {
		if err := s.setMark(mark); err != nil {
			return err // without the right to mark, the next Open would fail too
		}
	}
	b.mark.Store(mark)
	return b.others.setMark(mark)
}

// ControlSocket prepares a socket that is not the bind's (of TURN or libp2p) for use next to a tunnel: it gets the mark, or else a full
// tunnel would route it into itself, and big buffers if it is a UDP socket. It has the form of net.Dialer.Control: the mark follows
// [Bind.SetMark] until the socket is closed, so that connections live through a tunnel that becomes a full one.
func (b *Bind) ControlSocket(network, _ string, c syscall.RawConn) error {
	if err := enlargeConn(network, c); err != nil {
		return err
	}
	return b.others.add(c)
}

// Send implements [conn.Bind]. It never waits for the network, but for a moment (sendPatience) if the socket's buffer is full.
// Without a path the newest handshake initiation is held until there is one, and the rest is dropped.
func (b *Bind) Send(bufs [][]byte, ep conn.Endpoint) error {
	switch e := ep.(type) {
	case *PeerEndpoint:
		p := e.path.Load()
		if p == nil {
			if next := e.successor(); next != nil {
				return b.Send(bufs, next)
			}
			if p = e.hold(bufs); p == nil {
				b.stats.noPath.Add(uint64(len(bufs)))
				return nil
			}
		}
		if e.yielding.Load() && e.holdInitiation(bufs) {
			return nil
		}
		if d := e.watch.Load(); d != nil {
			d.look(bufs)
		}
		return b.sendPath(bufs, p)
	case *Endpoint:
		return b.sendUDP(bufs, e)
	default:
		return conn.ErrWrongEndpointType
	}
}

func (b *Bind) sendPath(bufs [][]byte, p *Path) error {
	if p.kind == pathConn {
		if p.carrier == nil || !p.carrier.carry(bufs, p.remote) {
			p.link.send(bufs)
		}
		return nil
	}
	return b.sendUDP(bufs, p.dst)
}

func (b *Bind) sendUDP(bufs [][]byte, e *Endpoint) error {
	if e.dst.Port() == 0 {
		b.stats.noPath.Add(uint64(len(bufs)))
		return nil // NoEndpoint, come back from "wg showconf"
	}
	s := b.socks.Load()
	if s == nil {
		return net.ErrClosed
	}
	sock := s.forAddr(e.dst.Addr())
	if sock == nil {
		return fmt.Errorf("send to %s: %w", e.dst, errFamily)
	}
	dropped, err := sock.send(bufs, e, 0)
	if dropped > 0 {
		b.stats.sendDrops.Add(uint64(dropped))
	}
	return err
}

// ParseEndpoint implements [conn.Bind]: a numeric address and port. The result is a plain endpoint even if the address is an ICE
// peer's: whoever configures one by hand wants WireGuard's own roaming.
func (b *Bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, fmt.Errorf("parse endpoint %q: %w", s, err)
	}
	return newEndpoint(ap, local{}), nil
}

// BatchSize implements [conn.Bind].
func (b *Bind) BatchSize() int { return batchSize }

// Mux returns what pion's agents use as their UDP mux. It stays the same over Open and Close.
func (b *Bind) Mux() *Mux { return b.mux }

// Port returns the port of the open sockets, 0 while the bind is closed.
func (b *Bind) Port() uint16 {
	if s := b.socks.Load(); s != nil {
		return s.port
	}
	return 0
}

// Peer returns the peer's endpoint. The first call makes it, without a path.
func (b *Bind) Peer(pk key.Public) *PeerEndpoint {
	b.peersMu.Lock()
	defer b.peersMu.Unlock()
	e := b.peers[pk]
	if e == nil {
		e = &PeerEndpoint{bind: b, pk: pk}
		b.peers[pk] = e
	}
	return e
}

// RemovePeer drops the peer's paths, its sources and the packet it holds. [Bind.Peer] makes a new endpoint; see [PeerEndpoint] for what the old
// one does where WireGuard still has it.
func (b *Bind) RemovePeer(pk key.Public) {
	b.peersMu.Lock()
	e := b.peers[pk]
	delete(b.peers, pk)
	b.peersMu.Unlock()
	if e != nil {
		e.remove()
	}
}

// ClearSources lets the kernel choose the source addresses anew, but for those that ICE has selected. It is for a change of the
// host's addresses or routes, of which the bind learns from nobody else.
func (b *Bind) ClearSources() {
	b.cache.clearSources()
	b.peersMu.Lock()
	defer b.peersMu.Unlock()
	for _, e := range b.peers {
		e.ClearSrc()
	}
}

// Held is what the tables of a bind have.
type Held struct {
	Peers    int // that have an endpoint
	Sources  int // of datagrams, that belong to peers
	ICEConns int // connections of the mux, those of ICE agents
}

// Held returns the sizes of the tables: what is left of a peer or an agent that is gone shows here.
func (b *Bind) Held() Held {
	var h Held
	b.peersMu.Lock()
	h.Peers = len(b.peers)
	b.peersMu.Unlock()
	b.table.mu.Lock()
	h.Sources = len(b.table.claims)
	b.table.mu.Unlock()
	b.mux.mu.Lock()
	defer b.mux.mu.Unlock()
	for _, conns := range b.mux.conns {
		h.ICEConns += len(conns)
	}
	return h
}

// Stats returns the counts of what went nowhere.
func (b *Bind) Stats() Stats { return b.stats.snapshot() }
