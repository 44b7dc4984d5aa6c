package bind

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/pion/stun"
)

// Credentials sign ICE's connectivity checks of one pair (RFC 8445, section 7.1.2), as the agent that selected the pair signs its own.
type Credentials struct {
	Username    string // the peer's user fragment, a colon, and ours
	Password    string // the peer's
	Controlling bool   // the role of our agent
	Priority    uint32 // PRIORITY of our candidate
}

// String keeps the password out of logs.
func (c Credentials) String() string { return "credentials of " + c.Username }

const (
	// attrPadding makes a check as long as it is to be. It is of the range that a receiver ignores if it does not know it (RFC 8489,
	// section 14), and not assigned. PADDING of RFC 5780 is of the other range, which an agent would have to refuse.
	attrPadding = stun.AttrType(0xfadd)
	// attrHeader is the length of an attribute's type and length.
	attrHeader = 4

	ipv4Header = 20 // without options
	ipv6Header = 40
	udpHeader  = 8
)

// checkRoute sends probes as padded checks of the pair that ICE selected: the peer's agent answers each, with a message that is
// small. To it they are consent checks like those that it gets all the time: they come from the same address, claim the same role and
// nominate nothing. So they need nothing of the peer but ICE.
type checkRoute struct {
	mux  *Mux
	path *Path
	by   Credentials
}

// bound implements [probeRoute]: what the routing table and the ICMP messages of the last minutes say about the way. Probes within it
// leave with "don't fragment" set, as all packets do that the kernel takes to fit; longer ones it would fragment.
func (r *checkRoute) bound() (int, error) {
	mtu, err := routeMTU(r.path.local.Addr(), r.path.remote, r.mux.bind.ControlSocket)
	return mtu - r.overhead(), err
}

// overhead implements [probeRoute].
func (r *checkRoute) overhead() int {
	if r.path.remote.Addr().Is4() {
		return ipv4Header + udpHeader
	}
	return ipv6Header + udpHeader
}

// probe implements [probeRoute].
func (r *checkRoute) probe(size int, answered func()) error {
	b, err := buildCheck(r.by, size)
	if err != nil {
		return err
	}
	c := &check{by: r.by, answered: answered}
	now := time.Now()
	r.mux.mu.Lock()
	r.mux.tx.put(transactionID(b), transaction{caller: c, dst: r.path.remote, expires: now.Add(transactionLifetime)}, now)
	r.mux.mu.Unlock()
	e := newEndpoint(r.path.remote, local{addr: r.path.local.Addr()})
	e.strict = true
	return r.mux.bind.sendUDP([][]byte{b}, e)
}

// buildCheck returns a check of the given size, a multiple of 4 as all STUN messages have; of the least size if that is more.
func buildCheck(by Credentials, size int) ([]byte, error) {
	role := stun.RawAttribute{Type: stun.AttrICEControlled, Value: make([]byte, 8)}
	if by.Controlling {
		role.Type = stun.AttrICEControlling
	}
	priority := stun.RawAttribute{Type: stun.AttrPriority, Value: []byte{byte(by.Priority >> 24), byte(by.Priority >> 16), byte(by.Priority >> 8), byte(by.Priority)}}
	const signature = attrHeader + 20 + attrHeader + 4 // MESSAGE-INTEGRITY and FINGERPRINT
	m, err := stun.Build(stun.BindingRequest, stun.TransactionID, stun.NewUsername(by.Username), role, priority)
	if err != nil {
		return nil, err
	}
	if room := size - len(m.Raw) - signature - attrHeader; room >= 0 {
		m.Add(attrPadding, make([]byte, room&^3))
	}
	if err := stun.NewShortTermIntegrity(by.Password).AddTo(m); err != nil {
		return nil, err
	}
	if err := stun.Fingerprint.AddTo(m); err != nil {
		return nil, err
	}
	return m.Raw, nil
}

// check is a probe that waits for its answer.
type check struct {
	by       Credentials
	answered func()
}

// answer takes a response to the probe. The peer signs it with its password; anything else could come from anybody.
func (c *check) answer(b []byte, _ netip.Addr) {
	m := &stun.Message{Raw: append([]byte(nil), b...)}
	if m.Decode() == nil && m.Type == stun.BindingSuccess && stun.NewShortTermIntegrity(c.by.Password).Check(m) == nil {
		c.answered()
	}
}

// controlFunc prepares a socket, in the form of net.Dialer.Control.
type controlFunc = func(network, address string, c syscall.RawConn) error

// dialRoute makes a socket with which the kernel looks up the route to dst. Nothing is sent.
func dialRoute(src netip.Addr, dst netip.AddrPort, control controlFunc) (*net.UDPConn, error) {
	d := net.Dialer{Control: control}
	if src.IsValid() {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(src, 0))
	}
	c, err := d.Dial("udp", dst.String())
	if err != nil {
		return nil, fmt.Errorf("look up the route to %s: %w", dst, err)
	}
	return c.(*net.UDPConn), nil
}
