package bind

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pion/ice/v2"
)

const (
	// Requests from addresses that their agent has not sent to are what anybody can make. The limit is for all agents together;
	// it leaves room for the checks of thousands of peers that start at once (each address asks some ten times in two seconds).
	unsolicitedRate  = 4000 // a second
	unsolicitedBurst = 8000

	// maxRemotes is how many addresses a connection remembers as solicited: more than ICE's pairs.
	maxRemotes = 256
)

// Mux shares the bind's sockets between ICE agents: it implements pion's UniversalUDPMux. It stays the same while the bind is
// opened and closed; after a change of the port, agents have to gather anew. All methods are safe for concurrent use.
//
// A connection is one agent's use of one local address: what is written leaves from that address, and what arrived elsewhere does
// not get there, so that each pair is tested as what it is. Requests are routed by the user fragment in front of USERNAME (RFC 8445,
// section 7.2.2), responses by the transaction that the request began. What fits nothing gets no answer.
//
// # Locking
//
// Mu is never held over a system call or a callback, so that deliver, which runs in the receiving goroutines, never waits for long.
type Mux struct {
	// immutable
	bind   *Bind
	opts   Options
	closed chan struct{}

	addrs addrCache

	mu       sync.Mutex // guards all following
	shut     bool
	conns    map[string][]*muxConn // by local user fragment
	tx       transactions
	limit    tokenBucket
	mappings map[netip.AddrPort]*mapping // by STUN server
}

var _ ice.UniversalUDPMux = (*Mux)(nil)

func newMux(b *Bind, o Options) *Mux {
	return &Mux{
		bind:     b,
		opts:     o,
		closed:   make(chan struct{}),
		conns:    make(map[string][]*muxConn),
		limit:    tokenBucket{rate: unsolicitedRate, burst: unsolicitedBurst},
		mappings: make(map[netip.AddrPort]*mapping),
	}
}

// Close closes all connections; later calls fail. It is idempotent. It does not close the bind.
func (m *Mux) Close() error {
	m.mu.Lock()
	if m.shut {
		m.mu.Unlock()
		return nil
	}
	m.shut = true
	close(m.closed)
	var all []*muxConn
	for _, cs := range m.conns {
		all = append(all, cs...)
	}
	clear(m.conns)
	m.mu.Unlock()
	for _, c := range all {
		c.queue.close()
	}
	return nil
}

// GetConn implements [ice.UDPMux]: the connection of a user fragment at one of [Mux.GetListenAddresses], made if need be.
func (m *Mux) GetConn(ufrag string, addr net.Addr) (net.PacketConn, error) {
	l, err := localOf(addr)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.findLocked(ufrag, "", l); c != nil {
		return c, nil
	}
	return m.addLocked(ufrag, "", l)
}

// GetConnForURL implements [ice.UniversalUDPMux]: the connection of a server-reflexive candidate. Pion asks for one with every
// local address and both families, whatever the server's answer was about. Only the address that the server has been asked from is
// the base of the candidate (RFC 8445, section 5.1.1.2); for the others there is an error, which pion logs and leaves at that.
func (m *Mux) GetConnForURL(ufrag, url string, addr net.Addr) (net.PacketConn, error) {
	l, err := localOf(addr)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.checkBaseLocked(url, l); err != nil {
		return nil, err
	}
	if m.findLocked(ufrag, url, l) != nil {
		return nil, fmt.Errorf("%s has been asked from %s for this agent already", url, l)
	}
	return m.addLocked(ufrag, url, l)
}

// GetRelayedAddr implements [ice.UniversalUDPMux]; pion never calls it.
func (m *Mux) GetRelayedAddr(net.Addr, time.Duration) (*net.Addr, error) {
	return nil, fmt.Errorf("allocate a relay over the shared socket: %w", errors.ErrUnsupported)
}

// RemoveConnByUfrag implements [ice.UDPMux]: it closes all connections of a user fragment.
func (m *Mux) RemoveConnByUfrag(ufrag string) {
	m.mu.Lock()
	cs := m.conns[ufrag]
	delete(m.conns, ufrag)
	m.mu.Unlock()
	for _, c := range cs {
		c.queue.close()
	}
}

func localOf(addr net.Addr) (netip.Addr, error) {
	if a, ok := addr.(*net.UDPAddr); ok {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && !ip.IsUnspecified() {
			return ip.Unmap(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%v is not a concrete UDP address", addr)
}

func (m *Mux) findLocked(ufrag, url string, l netip.Addr) *muxConn {
	for _, c := range m.conns[ufrag] {
		if c.local == l && c.url == url {
			return c
		}
	}
	return nil
}

func (m *Mux) addLocked(ufrag, url string, l netip.Addr) (*muxConn, error) {
	if m.shut {
		return nil, io.ErrClosedPipe
	}
	c := newMuxConn(m, ufrag, url, l)
	m.conns[ufrag] = append(m.conns[ufrag], c)
	return c, nil
}

// remove forgets a connection that has been closed.
func (m *Mux) remove(c *muxConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	cs := slices.DeleteFunc(m.conns[c.ufrag], func(o *muxConn) bool { return o == c })
	if len(cs) == 0 {
		delete(m.conns, c.ufrag)
	} else {
		m.conns[c.ufrag] = cs
	}
}

// deliver takes a STUN message that arrived on the shared sockets. It copies what it keeps, and never blocks.
func (m *Mux) deliver(b []byte, from *origin) {
	src := from.source.addrPort()
	if m.opts.Exclude != nil && m.opts.Exclude(src.Addr().WithZone("")) {
		m.bind.stats.stunDropped.Add(1)
		return
	}
	switch classOf(b) {
	case classRequest:
		m.deliverRequest(b, src, from.local.addr)
	case classSuccess, classError:
		m.deliverResponse(b, src, from.local.addr)
	default:
		// Indications keep NATs open and mean nothing; no agent of this program sends any.
		m.bind.stats.stunDropped.Add(1)
	}
}

func (m *Mux) deliverRequest(b []byte, src netip.AddrPort, l netip.Addr) {
	ufrag, ok := usernameFragment(b)
	if !ok {
		m.bind.stats.stunDropped.Add(1)
		return
	}
	m.mu.Lock()
	c := pick(m.conns[string(ufrag)], l, src.Addr().Is4())
	limited := false
	if c != nil {
		_, known := c.remotes[src]
		limited = !known && !m.limit.take(time.Now())
	}
	m.mu.Unlock()
	switch {
	case limited:
		m.bind.stats.stunLimited.Add(1)
	case c == nil:
		m.bind.stats.stunDropped.Add(1)
	default:
		c.push(b, src)
	}
}

// pick chooses the connection that a request which arrived at l is for. Host candidates go first: a request that arrives at a
// reflexive candidate is seen at its base (RFC 8445, section 7.3.1.2). Where the system does not say at which address packets
// arrive, the first one of the family has to do.
func pick(cs []*muxConn, l netip.Addr, is4 bool) *muxConn {
	var reflexive *muxConn
	for _, c := range cs {
		if l.IsValid() && c.local != l || c.local.Is4() != is4 {
			continue
		}
		if c.url == "" {
			return c
		}
		if reflexive == nil {
			reflexive = c
		}
	}
	return reflexive
}

func (m *Mux) deliverResponse(b []byte, src netip.AddrPort, l netip.Addr) {
	m.mu.Lock()
	t, ok := m.tx.take(transactionID(b), src, time.Now())
	m.mu.Unlock()
	switch {
	case !ok:
		m.bind.stats.stunDropped.Add(1)
	case t.conn != nil:
		t.conn.push(b, src)
	default:
		t.caller.answer(b, l)
	}
}

// write sends a STUN message from a local address. Requests are remembered, so that the response finds its way back.
func (m *Mux) write(c *muxConn, b []byte, dst netip.AddrPort) error {
	if classify(b) == kindSTUN && classOf(b) == classRequest {
		now := time.Now()
		m.mu.Lock()
		m.tx.put(transactionID(b), transaction{conn: c, dst: dst, expires: now.Add(transactionLifetime)}, now)
		if len(c.remotes) < maxRemotes {
			c.remotes[dst] = struct{}{}
		}
		m.mu.Unlock()
	}
	e := newEndpoint(dst, local{addr: c.local})
	e.strict = true
	return m.bind.sendUDP([][]byte{b}, e)
}
