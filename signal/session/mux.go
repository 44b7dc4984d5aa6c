package session

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/ice/v2"
	"github.com/pion/stun"
)

// pacing is the least time between two checks of one agent, RFC 8445, section 14.2.
const pacing = 50 * time.Millisecond

// agentMux is one agent's view of the shared mux. It leaves out addresses that the options forbid (pion applies its filters to sockets
// of its own alone), paces checks, and lets a closing agent go at once.
type agentMux struct {
	ice.UniversalUDPMux
	ctx     context.Context // ends with the agent
	allowed func(netip.Addr) bool
	pacer   *pacer
}

// GetListenAddresses returns the addresses that may become candidates.
func (m *agentMux) GetListenAddresses() (addrs []net.Addr) {
	for _, a := range m.UniversalUDPMux.GetListenAddresses() {
		if udp, ok := a.(*net.UDPAddr); ok && m.allowed(udp.AddrPort().Addr().Unmap().WithZone("")) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// GetConn returns a paced connection.
func (m *agentMux) GetConn(ufrag string, addr net.Addr) (net.PacketConn, error) {
	return m.paced(m.UniversalUDPMux.GetConn(ufrag, addr))
}

// GetConnForURL returns a paced connection.
func (m *agentMux) GetConnForURL(ufrag, url string, addr net.Addr) (net.PacketConn, error) {
	return m.paced(m.UniversalUDPMux.GetConnForURL(ufrag, url, addr))
}

// GetXORMappedAddr asks the STUN server, until it answers or the agent closes.
func (m *agentMux) GetXORMappedAddr(server net.Addr, timeout time.Duration) (*stun.XORMappedAddress, error) {
	return await(m.ctx, func() (*stun.XORMappedAddress, error) { return m.UniversalUDPMux.GetXORMappedAddr(server, timeout) }, nil)
}

func (m *agentMux) paced(c net.PacketConn, err error) (net.PacketConn, error) {
	if err != nil {
		return nil, err
	}
	return &pacedConn{c, m.pacer}, nil
}

// await runs f, but for no longer than ctx lives. The result of an f that comes later goes to discard.
func await[T any](ctx context.Context, f func() (T, error), discard func(T)) (T, error) {
	type result struct {
		v   T
		err error
	}
	ch := make(chan result, 1)
	go func() {
		v, err := f()
		ch <- result{v, err}
	}()
	select {
	case r := <-ch:
		return r.v, r.err
	case <-ctx.Done():
		if discard != nil {
			go func() {
				if r := <-ch; r.err == nil {
					discard(r.v)
				}
			}()
		}
		var zero T
		return zero, context.Cause(ctx)
	}
}

// pacer spreads the checks of an agent. pion checks all pairs in each round; of n pairs a pacer lets each through once in n times
// the pacing interval, so that all get their turn and the sum keeps to the RFC.
type pacer struct {
	mu   sync.Mutex
	last map[pair]time.Time
}

type pair struct {
	conn   net.PacketConn
	remote netip.AddrPort
}

func newPacer() *pacer { return &pacer{last: make(map[pair]time.Time)} }

// allow reports whether the pair may be checked now.
func (p *pacer) allow(now time.Time, c pair) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, known := p.last[c]
	if !known && len(p.last) >= 4*maxPairs {
		return false
	}
	// Three quarters: rounds come at multiples of checkInterval, give or take the scheduler.
	if known && now.Sub(last) < min(time.Duration(len(p.last))*pacing, keepaliveInterval)*3/4 {
		return false
	}
	p.last[c] = now
	return true
}

// pacedConn holds back checks.
type pacedConn struct {
	net.PacketConn
	pacer *pacer
}

// WriteTo drops a check that comes too early, as if the network had lost it: pion will repeat it.
func (c *pacedConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	if udp, ok := addr.(*net.UDPAddr); ok && isCheck(b) && !c.pacer.allow(time.Now(), pair{c.PacketConn, udp.AddrPort()}) {
		return len(b), nil
	}
	return c.PacketConn.WriteTo(b, addr)
}

// isCheck reports whether b is a Binding request without USE-CANDIDATE: nominations are one pair's, and urgent.
func isCheck(b []byte) bool {
	if len(b) < 20 || b[0] != 0 || b[1] != 1 || !stun.IsMessage(b) {
		return false
	}
	for b = b[20:]; len(b) >= 4; {
		if b[0] == 0 && b[1] == 0x25 {
			return false
		}
		n := 4 + (int(b[2])<<8|int(b[3])+3)&^3
		if n > len(b) {
			break
		}
		b = b[n:]
	}
	return true
}
