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
	gate    *relayGate
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

// GetXORMappedAddr asks the STUN server, until it answers, the time is over or the agent closes. The question itself ends by the time. It is
// one: asked again, the mux would say what it remembers of a server that did not answer.
func (m *agentMux) GetXORMappedAddr(server net.Addr, timeout time.Duration) (*stun.XORMappedAddress, error) {
	return await(m.ctx, func() (*stun.XORMappedAddress, error) { return m.UniversalUDPMux.GetXORMappedAddr(server, timeout) }, nil)
}

func (m *agentMux) paced(c net.PacketConn, err error) (net.PacketConn, error) {
	if err != nil {
		return nil, err
	}
	return &pacedConn{c, m.pacer, m.gate}, nil
}

// pacer spreads the checks of an agent. pion checks all pairs in each round; of n pairs a pacer lets each through once in n times
// the pacing interval, so that all get their turn, and the sum keeps to the RFC but for a first burst.
type pacer struct {
	mu     sync.Mutex
	off    bool // a pair is selected: only that one is still checked
	last   map[pair]time.Time
	burst  float64 // checks that may go out at once
	filled time.Time
}

type pair struct {
	conn   any // the local end
	remote netip.AddrPort
}

// firstBurst is how many checks the first round may have: as many as the pacing allows in a second.
const firstBurst = float64(time.Second / pacing)

func newPacer() *pacer { return &pacer{last: make(map[pair]time.Time), burst: firstBurst} }

// stop lets everything through from now on.
func (p *pacer) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off, p.last = true, nil
}

// allow reports whether the pair may be checked now.
func (p *pacer) allow(now time.Time, c pair) bool {
	const slack = checkInterval / 10 // rounds are not quite regular
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off {
		return true
	}
	last, known := p.last[c]
	if !known {
		if len(p.last) >= 4*maxPairs { // peer-reflexive candidates come on top
			return false
		}
		p.last[c] = time.Time{}
	}
	p.burst = min(p.burst+now.Sub(p.filled).Seconds()*firstBurst, firstBurst)
	p.filled = now
	if p.burst < 1 || now.Sub(last) < time.Duration(len(p.last))*pacing-slack {
		return false
	}
	p.burst--
	p.last[c] = now
	return true
}

// pacedConn holds back checks of both sides.
type pacedConn struct {
	net.PacketConn
	pacer *pacer
	gate  *relayGate
}

// ReadFrom waits for the next datagram that the gate lets through.
func (c *pacedConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, addr, err := c.PacketConn.ReadFrom(b)
		if err != nil || c.gate.admits(time.Now(), addr, b[:n]) {
			return n, addr, err
		}
	}
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
