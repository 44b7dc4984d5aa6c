package device

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/pion/ice/v2"
	"golang.org/x/net/netutil"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/proto"
)

const (
	maxTCPConns    = 256     // connections at once; more wait in the listener's queue
	tcpReadPackets = 64      // packets that wait to be read from one connection
	tcpWriteBuffer = 4 << 20 // bytes of one connection; what does not fit is dropped, as by a UDP socket
	tcpFirstCheck  = 5 * time.Second

	// tcpUnknown is how long a connection lives whose first check is for no agent: one that has ended meanwhile, mostly. An agent is there before
	// its candidates are announced.
	tcpUnknown = time.Second
)

// tcpMux accepts ICE-TCP connections (RFC 6544) for all sessions, for peers whose networks let no UDP through. It is empty until the
// interface is up, and stays so where TCP is not wanted.
type tcpMux struct {
	mu    sync.Mutex // guards the following
	inner *ice.TCPMuxDefault
	conns *trackedListener
	port  uint16 // that was asked for
}

var _ ice.TCPMux = (*tcpMux)(nil)

// open listens on the port of WireGuard or, if another program has it, on any. Connections to another
// port end. One call at a time.
func (m *tcpMux) open(ctx context.Context, port uint16, control func(string, string, syscall.RawConn) error, log *slog.Logger) {
	m.mu.Lock()
	there := m.inner != nil && m.port == port
	m.mu.Unlock()
	if there {
		return
	}
	m.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.port = port
	lc := net.ListenConfig{Control: control}
	l, err := lc.Listen(ctx, "tcp", ":"+strconv.Itoa(int(port)))
	if err != nil {
		l, err = lc.Listen(ctx, "tcp", ":0")
	}
	if err != nil {
		log.Warn("no ICE candidates over TCP", "err", err)
		return
	}
	m.conns = &trackedListener{Listener: netutil.LimitListener(l, maxTCPConns), open: make(map[*trackedConn]bool)}
	m.inner = ice.NewTCPMuxDefault(ice.TCPMuxParams{
		Listener:                     m.conns,
		Logger:                       quiet{},
		ReadBufferSize:               tcpReadPackets,
		WriteBufferSize:              tcpWriteBuffer,
		FirstStunBindTimeout:         tcpFirstCheck,
		AliveDurationForConnFromStun: tcpUnknown,
	})
}

// GetConnByUfrag implements [ice.TCPMux].
func (m *tcpMux) GetConnByUfrag(ufrag string, isIPv6 bool, local net.IP) (net.PacketConn, error) {
	m.mu.Lock()
	inner := m.inner
	m.mu.Unlock()
	if inner == nil {
		return nil, net.ErrClosed
	}
	return inner.GetConnByUfrag(ufrag, isIPv6, local)
}

// RemoveConnByUfrag implements [ice.TCPMux].
func (m *tcpMux) RemoveConnByUfrag(ufrag string) {
	m.mu.Lock()
	inner := m.inner
	m.mu.Unlock()
	if inner != nil {
		inner.RemoveConnByUfrag(ufrag)
	}
}

// Close implements [io.Closer].
func (m *tcpMux) Close() error {
	m.mu.Lock()
	inner, conns := m.inner, m.conns
	m.inner = nil
	m.mu.Unlock()
	if inner == nil {
		return nil
	}
	conns.closeAll()
	return inner.Close()
}

// trackedListener knows its open connections, since pion's mux waits when it closes for those that have not shown a STUN message yet.
type trackedListener struct {
	net.Listener
	mu     sync.Mutex // guards the following
	open   map[*trackedConn]bool
	closed bool
}

type trackedConn struct {
	net.Conn
	l *trackedListener
}

func (l *trackedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t := &trackedConn{c, l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed { // between the two lines above
		c.Close()
		return nil, net.ErrClosed
	}
	l.open[t] = true
	return t, nil
}

func (l *trackedListener) closeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for c := range l.open {
		c.Conn.Close()
	}
}

func (c *trackedConn) Close() error {
	c.l.mu.Lock()
	delete(c.l.open, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// networkTypes returns the transports that sessions may use. TCP is left out of a full tunnel: pion dials such candidates by sockets of
// its own, which can't be marked, so that they would be routed into the tunnel that they are to carry.
func networkTypes(c *config.Config, marked bool) ([]proto.NetworkType, error) {
	types := c.Interface.NetworkTypes
	if types == nil {
		types = []proto.NetworkType{proto.UDP4, proto.UDP6, proto.TCP4, proto.TCP6}
	}
	if !marked {
		return types, nil
	}
	types = slices.DeleteFunc(slices.Clone(types), proto.NetworkType.IsTCP)
	if len(types) == 0 {
		return nil, errors.New("NetworkTypes: ICE over TCP can't leave a full tunnel, nor carry a FwMark: add udp4 or udp6")
	}
	return types, nil
}

// marked reports whether the packets of the underlay need a mark to find their way.
func marked(c *config.Config) bool {
	return c.Interface.FwMark != 0 || fullTunnel(c)
}

// fullTunnel reports whether a default route leads into the tunnel, past rules that have the mark.
func fullTunnel(c *config.Config) bool {
	return c.Interface.Table == config.TableAuto && slices.ContainsFunc(c.Peers, func(p config.Peer) bool {
		return slices.ContainsFunc(p.AllowedIPs, func(n netip.Prefix) bool { return n.Bits() == 0 })
	})
}
