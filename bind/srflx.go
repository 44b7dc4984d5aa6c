package bind

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/pion/stun"
)

const (
	// mappingTTL is how long all agents share what a STUN server said; NATs keep a mapping for at least twice as long (RFC 4787,
	// REQ-5), and the request for a new answer refreshes it.
	mappingTTL = 30 * time.Second
	// failureTTL keeps many agents from asking a server that is down, each for as long as it takes to see that.
	failureTTL = 3 * time.Second
	// maxMappings limits the servers remembered.
	maxMappings = 64

	// firstRTO is the time to the first retransmission; it doubles with each (RFC 8489, section 6.2.1).
	firstRTO = 500 * time.Millisecond
	// maxTransmissions is the RFC's Rc.
	maxTransmissions = 7
)

// errNoAnswer says that a STUN server did not answer; UDP to it may be blocked.
var errNoAnswer = errors.New("no answer")

// mapping is what a STUN server sees of the shared socket. Done is closed when the following fields are final, but for the time.
type mapping struct {
	done chan struct{}
	addr netip.AddrPort // as the server sees us
	base netip.Addr     // our own address that asked
	err  error
	at   time.Time // zero: expired; guarded by the mux's mu, as is last

	last *mapping // that this one replaces: whoever was told of it may yet ask for its base
}

func (p *mapping) finished() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *mapping) freshLocked(now time.Time) bool {
	switch {
	case !p.finished():
		return true
	case p.err != nil:
		return now.Sub(p.at) < failureTTL
	default:
		return now.Sub(p.at) < mappingTTL
	}
}

// GetXORMappedAddr implements [ice.UniversalUDPMux]: the address that the STUN server sees requests from the shared socket come from.
// It waits for the answer for at most the given time, and repeats the request meanwhile. The answer is shared by all agents.
func (m *Mux) GetXORMappedAddr(server net.Addr, limit time.Duration) (*stun.XORMappedAddress, error) {
	u, ok := server.(*net.UDPAddr)
	if !ok {
		return nil, fmt.Errorf("ask STUN server %v: not a UDP address", server)
	}
	dst := unmapPort(u.AddrPort())
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	p, ours := m.mapping(dst)
	if ours {
		m.resolve(ctx, p, dst)
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("ask STUN server %s: %w", dst, errNoAnswer)
	}
	if p.err != nil {
		return nil, fmt.Errorf("ask STUN server %s: %w", dst, p.err)
	}
	return &stun.XORMappedAddress{IP: p.addr.Addr().AsSlice(), Port: int(p.addr.Port())}, nil
}

// mapping returns the current mapping; ours means that the caller has to resolve it.
func (m *Mux) mapping(dst netip.AddrPort) (p *mapping, ours bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	old := m.mappings[dst]
	if old != nil && old.freshLocked(now) {
		return old, false
	}
	if len(m.mappings) >= maxMappings {
		for d, p := range m.mappings {
			if !p.freshLocked(now) {
				delete(m.mappings, d)
			}
		}
	}
	p = &mapping{done: make(chan struct{}), last: old}
	if old != nil {
		old.last = nil
	}
	if len(m.mappings) < maxMappings {
		m.mappings[dst] = p
	}
	return p, true
}

// Expire forgets what STUN servers said longer ago than age, so that whoever needs it next asks again: the network has changed, or a path
// has died, perhaps because a NAT on the way shows us with another address now. Agents that restart one after another may pass a small
// age, to share an answer.
func (m *Mux) Expire(age time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for _, p := range m.mappings {
		if p.finished() && now.Sub(p.at) >= age {
			p.at = time.Time{}
		}
	}
}

// resolve asks the server and finishes the mapping.
func (m *Mux) resolve(ctx context.Context, p *mapping, dst netip.AddrPort) {
	addr, base, err := m.ask(ctx, dst)
	m.mu.Lock()
	defer m.mu.Unlock()
	p.addr, p.base, p.err, p.at = addr, base, err, time.Now()
	close(p.done)
}

// query is a request to a STUN server that waits for its answer.
type query struct {
	answers chan answer // room for one
}

type answer struct {
	raw  []byte
	base netip.Addr
}

func (q *query) answer(b []byte, l netip.Addr) {
	select {
	case q.answers <- answer{raw: append([]byte(nil), b...), base: l}:
	default:
	}
}

func (m *Mux) ask(ctx context.Context, dst netip.AddrPort) (addr netip.AddrPort, base netip.Addr, err error) {
	req, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.Fingerprint)
	if err != nil {
		return addr, base, err
	}
	id := transactionID(req.Raw)
	q := &query{answers: make(chan answer, 1)}
	defer func() {
		m.mu.Lock()
		m.tx.take(id, dst, time.Time{})
		m.mu.Unlock()
	}()
	e := newEndpoint(dst, local{})
	var sendErr error
	rto := time.NewTimer(0)
	defer rto.Stop()
	for n := 0; ; {
		select {
		case a := <-q.answers:
			if !a.base.IsValid() {
				a.base = m.sourceTo(dst)
			}
			addr, err = mappedAddress(a.raw)
			return addr, a.base, err
		case <-m.closed:
			return addr, base, net.ErrClosed
		case <-ctx.Done():
			return addr, base, errors.Join(errNoAnswer, sendErr)
		case <-rto.C:
		}
		if n == maxTransmissions {
			return addr, base, errors.Join(errNoAnswer, sendErr)
		}
		// Put again, as the table forgets the oldest under load.
		now := time.Now()
		m.mu.Lock()
		m.tx.put(id, transaction{caller: q, dst: dst, expires: now.Add(transactionLifetime)}, now)
		m.mu.Unlock()
		sendErr = m.bind.sendUDP([][]byte{req.Raw}, e)
		if sendErr != nil && n == 0 {
			return addr, base, sendErr // no route or no such family: repeating it would keep the agent from gathering the rest
		}
		rto.Reset(firstRTO << n)
		n++
	}
}

// mappedAddress reads the answer of a STUN server.
func mappedAddress(b []byte) (netip.AddrPort, error) {
	msg := &stun.Message{Raw: b}
	if err := msg.Decode(); err != nil {
		return netip.AddrPort{}, fmt.Errorf("read answer: %w", err)
	}
	if msg.Type.Class == stun.ClassErrorResponse {
		var code stun.ErrorCodeAttribute
		if err := code.GetFrom(msg); err != nil {
			return netip.AddrPort{}, errors.New("refused without a reason")
		}
		return netip.AddrPort{}, fmt.Errorf("refused: %s", code)
	}
	var x stun.XORMappedAddress
	err := x.GetFrom(msg)
	if err != nil {
		var old stun.MappedAddress // of RFC 3489 servers
		if old.GetFrom(msg) != nil {
			return netip.AddrPort{}, fmt.Errorf("read answer: %w", err)
		}
		x.IP, x.Port = old.IP, old.Port
	}
	ip, ok := netip.AddrFromSlice(x.IP)
	if !ok || x.Port <= 0 || x.Port > 65535 || ip.IsUnspecified() {
		return netip.AddrPort{}, fmt.Errorf("read answer: %s is no address", x)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(x.Port)), nil
}

// sourceTo asks the routing table from which address packets to dst leave. It is for systems that do not tell at which address a
// packet arrived.
func (m *Mux) sourceTo(dst netip.AddrPort) netip.Addr {
	c, err := dialRoute(netip.Addr{}, dst, m.bind.ControlSocket)
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// checkBaseLocked refuses a local address that the STUN server of the URL has not been asked from.
func (m *Mux) checkBaseLocked(url string, l netip.Addr) error {
	server, known := serverOf(url)
	if known && server.Addr().Is4() != l.Is4() {
		return fmt.Errorf("%s is of another family than %s", url, l)
	}
	for _, current := range []bool{true, false} { // what was said before counts only as long as there is nothing else
		asked := false
		for dst, p := range m.mappings {
			if !current && !p.finished() && p.last != nil {
				p = p.last
			}
			if known && dst != server || dst.Addr().Is4() != l.Is4() || !p.finished() || p.err != nil || current && p.at.IsZero() {
				continue
			}
			if p.base == l || !p.base.IsValid() {
				return nil
			}
			asked = true
		}
		if asked {
			return fmt.Errorf("%s is asked from another address than %s", url, l)
		}
	}
	return fmt.Errorf("%s has not answered over the family of %s", url, l)
}

// serverOf returns the address in a URL like "stun:192.0.2.1:3478", false if there is a host name in it.
func serverOf(url string) (netip.AddrPort, bool) {
	_, rest, _ := strings.Cut(url, ":")
	rest, _, _ = strings.Cut(rest, "?")
	ap, err := netip.ParseAddrPort(rest)
	return unmapPort(ap), err == nil
}

// NATHints compares what STUN servers have said of late about one base address. Symmetric means that the NAT shows each of them
// another address (address-dependent mapping, RFC 4787, section 4.1), so that no server-reflexive candidate is of use to a peer that
// is behind such a NAT too. Known is false until two servers have answered.
func (m *Mux) NATHints() (symmetric, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var newest time.Time
	for _, p := range m.mappings {
		if p.finished() && p.err == nil && p.at.After(newest) {
			newest = p.at
		}
	}
	seen := make(map[netip.Addr]netip.AddrPort) // by base
	for _, p := range m.mappings {
		// Answers of another time may be from before a rebinding of the NAT, which would look the same.
		if !p.finished() || p.err != nil || p.at.IsZero() || newest.Sub(p.at) > 2*mappingTTL {
			continue
		}
		first, ok := seen[p.base]
		if !ok {
			seen[p.base] = p.addr
			continue
		}
		known = true
		symmetric = symmetric || first != p.addr
	}
	return symmetric, known
}

// rebound forgets what was true of the previous sockets.
func (m *Mux) rebound() {
	m.mu.Lock()
	clear(m.mappings)
	m.mu.Unlock()
	m.addrs.clear()
}
