package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v4"

	"github.com/wice-go/wice-go/bind"
	"github.com/wice-go/wice-go/proto/key"
)

// turnServer is STUN and TURN on UDP and TCP. A client gets a relay address of the IP version by which it comes: pion/turn does not
// know REQUESTED-ADDRESS-FAMILY (RFC 8656), and a relay address sends to its own version only.
type turnServer struct {
	// Constant after construction.
	server      *turn.Server
	credentials *credentials
	quota       *quota
	policy      policy
	own         []netip.Addr // this host's: only relay sockets are sent to there
	allow       []key.Public // empty: every key
	port        uint16
	second      uint16 // another STUN port, or 0
	log         *slog.Logger
	conns       *connGroup
	batches     *bind.Batches

	// mu guards all following.
	mu     sync.Mutex
	relays map[netip.AddrPort]*relayConn // by announced address
}

// startTURN listens and serves.
func startTURN(o Options, endpoints []endpoint, announced []netip.Addr, c *credentials, log *slog.Logger) (*turnServer, error) {
	own, err := hostAddrs()
	if err != nil {
		return nil, fmt.Errorf("rendezvous: %w", err)
	}
	batches := new(bind.Batches)
	t := &turnServer{
		credentials: c,
		quota:       newQuota(o.Limits),
		policy:      policy{allowPrivate: o.AllowPrivate, loopback: slices.ContainsFunc(announced, netip.Addr.IsLoopback)},
		own:         append(own, announced...),
		allow:       o.Allow,
		port:        o.STUNPort,
		log:         log,
		batches:     batches,
		conns:       &connGroup{flush: batches.Flush},
		relays:      map[netip.AddrPort]*relayConn{},
	}
	config := turn.ServerConfig{Realm: realm, LoggerFactory: logAdapter{log}}
	if o.Relay {
		config.AuthHandler = t.authenticate
		config.QuotaHandler = t.admit
		config.EventHandler = turn.EventHandler{OnAllocationCreated: t.created, OnAllocationDeleted: t.deleted}
	}
	done := false
	defer func() {
		if !done {
			closeAll(config)
		}
	}()

	for _, e := range endpoints {
		if err := t.listen(&config, e, o); err != nil {
			return nil, err
		}
	}
	t.listenSecond(&config, endpoints)
	if t.server, err = turn.NewServer(config); err != nil {
		return nil, fmt.Errorf("rendezvous: TURN server: %w", err)
	}
	done = true
	return t, nil
}

// listen opens the sockets of one endpoint. If the port is to be chosen by the system, the first one chosen serves all.
func (t *turnServer) listen(config *turn.ServerConfig, e endpoint, o Options) error {
	var generator turn.RelayAddressGenerator
	if o.Relay && e.announce.IsValid() {
		generator = &relayGenerator{t, e}
	}
	for attempt := 0; ; attempt++ {
		at := netip.AddrPortFrom(e.listen, t.port)
		udp, err := t.batches.Listen("udp"+family(e.listen), at.String())
		if err != nil {
			return listenError("STUN", "--stun-port", "UDP", at, err)
		}
		chosen := addrPort(udp.LocalAddr()).Port()
		if generator == nil {
			t.add(config, udp, nil)
			t.port = chosen
			return nil
		}
		at = netip.AddrPortFrom(e.listen, chosen)
		tcp, err := net.Listen("tcp"+family(e.listen), at.String())
		if err != nil {
			udp.Close()
			if t.port == 0 && attempt < 16 {
				continue // free for UDP, but not for TCP
			}
			return listenError("TURN", "--stun-port", "TCP", at, err)
		}
		t.add(config, udp, generator)
		config.ListenerConfigs = append(config.ListenerConfigs, turn.ListenerConfig{
			Listener: limitListener(t.conns.track(tcp), o.Limits), RelayAddressGenerator: generator, PermissionHandler: t.permit,
		})
		t.port = chosen
		return nil
	}
}

// listenSecond adds STUN on the next port where that is free: a client that is given another mapping there knows that its NAT is
// symmetric (RFC 4787, section 4.1).
func (t *turnServer) listenSecond(config *turn.ServerConfig, endpoints []endpoint) {
	if t.port == 65535 {
		return
	}
	var opened []net.PacketConn
	for _, e := range endpoints {
		c, err := t.batches.Listen("udp"+family(e.listen), netip.AddrPortFrom(e.listen, t.port+1).String())
		if err != nil {
			for _, c := range opened {
				c.Close()
			}
			t.log.Info("no second STUN port: clients can't tell symmetric NATs", "port", t.port+1, "error", err)
			return
		}
		opened = append(opened, c)
	}
	for _, c := range opened {
		t.add(config, c, nil)
	}
	t.second = t.port + 1
}

func (t *turnServer) add(config *turn.ServerConfig, c net.PacketConn, g turn.RelayAddressGenerator) {
	config.PacketConnConfigs = append(config.PacketConnConfigs, turn.PacketConnConfig{
		PacketConn: steadyConn{c}, RelayAddressGenerator: g, PermissionHandler: t.permit,
	})
}

func closeAll(c turn.ServerConfig) {
	for _, p := range c.PacketConnConfigs {
		p.PacketConn.Close()
	}
	for _, l := range c.ListenerConfigs {
		l.Listener.Close()
	}
}

func (t *turnServer) allowed(k key.Public) bool {
	return len(t.allow) == 0 || slices.Contains(t.allow, k)
}

// authenticate implements [turn.AuthHandler]. Credentials that have expired still serve the allocation that was made with them: an
// agent keeps its credentials as long as its session, and a relayed session must not end after an hour.
func (t *turnServer) authenticate(username, _ string, src net.Addr) ([]byte, bool) {
	k, expires, ok := parseUsername(username)
	if !ok || !t.allowed(k) {
		return nil, false
	}
	if !time.Now().Before(expires) && !t.quota.holds(username, src) {
		return nil, false
	}
	return turn.GenerateAuthKey(username, realm, t.credentials.password(username)), true
}

// admit implements [turn.QuotaHandler].
func (t *turnServer) admit(username, _ string, src net.Addr) bool {
	k, expires, ok := parseUsername(username)
	if !ok || !time.Now().Before(expires) {
		return false
	}
	if !t.quota.reserve(k, time.Now()) {
		t.log.Warn("TURN quota reached", "peer", k.Short(), "source", src)
		return false
	}
	return true
}

func (t *turnServer) created(src, _ net.Addr, _, username, _ string, relay net.Addr, _ int) {
	k, _, ok := parseUsername(username)
	if !ok {
		return
	}
	limiter := t.quota.add(k, username, src)
	t.mu.Lock()
	c := t.relays[addrPort(relay)]
	t.mu.Unlock()
	if c != nil {
		c.limiter.Store(limiter)
	}
	t.log.Debug("TURN allocation made", "peer", k.Short(), "source", src, "relay", relay)
}

func (t *turnServer) deleted(src, _ net.Addr, _, username, _ string) {
	if k, _, ok := parseUsername(username); ok {
		t.quota.remove(k, username, src)
	}
}

// permit implements [turn.PermissionHandler].
func (t *turnServer) permit(client net.Addr, peer net.IP) bool {
	a, _ := netip.AddrFromSlice(peer)
	if why := t.policy.refusal(a); why != "" {
		t.log.Debug("TURN destination refused", "source", client, "destination", a, "reason", why)
		return false
	}
	return true
}

// sendable is asked for each packet, with the port that permissions don't have. On this host's own addresses only other relay
// sockets are reachable, not whatever else listens there.
func (t *turnServer) sendable(to netip.AddrPort) bool {
	if t.policy.refusal(to.Addr()) != "" {
		return false
	}
	if t.policy.allowPrivate || !slices.Contains(t.own, to.Addr()) {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.relays[to] != nil
}

// Close ends all allocations.
func (t *turnServer) Close() error {
	err := t.server.Close()
	t.conns.closeAll()
	t.mu.Lock()
	relays := make([]*relayConn, 0, len(t.relays))
	for _, c := range t.relays {
		relays = append(relays, c)
	}
	t.mu.Unlock()
	for _, c := range relays {
		c.Close()
	}
	return err
}

// connGroup remembers the TCP connections: closing pion's server closes its listeners only.
type connGroup struct {
	flush func() // sends the packets that messages on these connections have caused

	// mu guards all following.
	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

type trackedListener struct {
	net.Listener
	group *connGroup
}

type trackedConn struct {
	net.Conn
	group *connGroup
}

func (g *connGroup) track(l net.Listener) net.Listener { return trackedListener{l, g} }

func (l trackedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.group.mu.Lock()
	defer l.group.mu.Unlock()
	if l.group.closed {
		c.Close()
		return nil, net.ErrClosed
	}
	if l.group.conns == nil {
		l.group.conns = map[net.Conn]struct{}{}
	}
	l.group.conns[c] = struct{}{}
	return &trackedConn{c, l.group}, nil
}

// Read sends on first what came with the messages that were read before.
func (c *trackedConn) Read(b []byte) (int, error) {
	c.group.flush()
	return c.Conn.Read(b)
}

func (c *trackedConn) Close() error {
	c.group.mu.Lock()
	delete(c.group.conns, c.Conn)
	c.group.mu.Unlock()
	return c.Conn.Close()
}

func (g *connGroup) closeAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for c := range g.conns {
		c.Close()
	}
}

// logAdapter passes pion's log on. Its errors are about single clients' packets, so they are worth debugging only.
type logAdapter struct{ log *slog.Logger }

func (l logAdapter) NewLogger(string) logging.LeveledLogger { return l }

func (l logAdapter) put(format string, args []any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug("TURN server", "message", fmt.Sprintf(format, args...))
	}
}

func (l logAdapter) Trace(string)                {}
func (l logAdapter) Tracef(string, ...any)       {}
func (l logAdapter) Debug(string)                {} // one for each packet
func (l logAdapter) Debugf(string, ...any)       {}
func (l logAdapter) Info(m string)               { l.put("%s", []any{m}) }
func (l logAdapter) Infof(f string, args ...any) { l.put(f, args) }
func (l logAdapter) Warn(m string)               { l.put("%s", []any{m}) }
func (l logAdapter) Warnf(f string, args ...any) { l.put(f, args) }
func (l logAdapter) Error(m string)              { l.put("%s", []any{m}) }
func (l logAdapter) Errorf(f string, a ...any)   { l.put(f, a) }

var errNoRelayTCP = errors.New("relaying TCP (RFC 6062) is not offered")
