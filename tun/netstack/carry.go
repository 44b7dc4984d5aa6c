package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// The probes of an idle connection inside the tunnel, by which the slots of peers that have vanished become free. Package net does the same
// with connections outside, in these intervals.
const (
	keepAliveIdle     = tcpip.KeepaliveIdleOption(15 * time.Second)
	keepAliveInterval = tcpip.KeepaliveIntervalOption(15 * time.Second)
	keepAliveCount    = 9
)

// carryBuffer is how many bytes each direction of a connection is carried at a time.
const carryBuffer = 32 << 10

// halfClosedIdle is how long a connection of which one direction has ended may be silent in the other: what RFC 5382 section 5 (REQ-5) asks of
// a NAT as a minimum.
const halfClosedIdle = 4 * time.Minute

// errTunnelDown is why connections end with the tunnel.
var errTunnelDown = errors.New("the tunnel went down")

// carry copies both ways between two connections until both directions have ended, and closes both. The end of one direction is passed on as
// such, and the other goes on. A failure, the end of ctx and a long silence after the end of one direction are passed on as a reset, lest the
// other end takes half of the data for all of it.
func (s *Stack) carry(ctx context.Context, in, out net.Conn) {
	s.carryWith(ctx, in, out, carryBuffer, halfClosedIdle)
}

// Carry is how the proxies carry a connection, for others: what DialPromptly has connected to, and a client. An error of one goes to the method
// CloseWithError(error) of the other, if there is one.
func (s *Stack) Carry(ctx context.Context, client, out net.Conn) {
	buffer := carryBuffer
	if out.LocalAddr().Network() == "udp" {
		buffer = maxUDP // all of a datagram
	}
	s.carryWith(ctx, client, out, buffer, halfClosedIdle)
}

func (s *Stack) carryWith(ctx context.Context, in, out net.Conn, buffer int, idle time.Duration) {
	defer in.Close()
	defer out.Close()
	defer context.AfterFunc(ctx, func() { s.reset(errTunnelDown, in, out) })()
	s.keepAlive(in, out)
	var half atomic.Bool
	a, b := s.halfClosing(in, &half, idle), s.halfClosing(out, &half, idle)
	var back sync.WaitGroup
	back.Go(func() { s.copyHalf(a, b, buffer) })
	s.copyHalf(b, a, buffer)
	back.Wait()
	for _, c := range []net.Conn{in, out} {
		_ = c.SetDeadline(time.Time{}) // else gonet's timers keep the connection until they fire; it may have ended
	}
}

// halfClosing is one of two connections that are carried. Once one direction has ended, the other ends with silence.
type halfClosing struct {
	net.Conn
	link *link        // that it sends to; nil: it is none of this stack's
	half *atomic.Bool // one direction has ended
	idle time.Duration
}

func (s *Stack) halfClosing(c net.Conn, half *atomic.Bool, idle time.Duration) halfClosing {
	h := halfClosing{Conn: c, half: half, idle: idle}
	if _, inside := c.(*tcpConn); inside {
		h.link = s.link
	}
	return h
}

func (c halfClosing) Read(b []byte) (int, error) {
	c.extend()
	return c.Conn.Read(b)
}

func (c halfClosing) Write(b []byte) (int, error) {
	if c.link != nil {
		c.link.pace()
	}
	c.extend()
	return c.Conn.Write(b)
}

func (c halfClosing) extend() {
	if c.half.Load() {
		c.SetDeadline(time.Now().Add(c.idle))
	}
}

// carryBuffers has buffers of carryBuffer bytes. They are used again, since gVisor keeps a reference to what was last written until it forgets the
// connection, which is long after its end for those in TIME-WAIT. It looks at nothing there: what was written has been copied.
var carryBuffers = sync.Pool{New: func() any { return new([carryBuffer]byte) }}

// carryRoom returns a buffer, and a function that gives it back.
func carryRoom(size int) (b []byte, giveBack func()) {
	if size != carryBuffer {
		return make([]byte, size), func() {}
	}
	room := carryBuffers.Get().(*[carryBuffer]byte)
	return room[:], func() { carryBuffers.Put(room) }
}

// copyHalf carries one direction.
func (s *Stack) copyHalf(to, from halfClosing, buffer int) {
	b, giveBack := carryRoom(buffer)
	_, err := io.CopyBuffer(to, from, b)
	giveBack()
	if err != nil {
		s.reset(err, to.Conn, from.Conn)
		return
	}
	if half, ok := to.Conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	to.half.Store(true)
	for _, c := range []halfClosing{to, from} { // of the other direction, which waits in one of them
		c.extend()
	}
}

// reset closes connections of this stack or of the kernel's so that the other ends see an error, not an end: those that can carry it, this one.
func (s *Stack) reset(why error, conns ...net.Conn) {
	if s.use() != nil {
		why = errTunnelDown
	}
	for _, c := range conns {
		if told, ok := c.(interface{ CloseWithError(error) error }); ok {
			told.CloseWithError(standardError(why))
			continue
		}
		if inside, ok := c.(*tcpConn); ok {
			if ep := s.endpoint(inside); ep != nil {
				ep.Abort()
			}
		}
		if outside, ok := c.(interface{ SetLinger(int) error }); ok {
			outside.SetLinger(0)
		}
		c.Close()
	}
}

// keepAlive switches probes on for the connections of this stack. Those of package net have them.
func (s *Stack) keepAlive(conns ...net.Conn) {
	idle, interval := keepAliveIdle, keepAliveInterval
	for _, c := range conns {
		inside, ok := c.(*tcpConn)
		if !ok {
			continue
		}
		ep := s.endpoint(inside)
		if ep == nil {
			continue
		}
		ep.SetSockOpt(&idle)
		ep.SetSockOpt(&interval)
		ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepAliveCount)
		ep.SocketOptions().SetKeepAlive(true)
	}
}

// received counts the segments that have come on a connection of this stack; 0 if it has ended.
func (s *Stack) received(c net.Conn) uint64 {
	inside, ok := c.(*tcpConn)
	if !ok {
		return 0
	}
	ep := s.endpoint(inside)
	if ep == nil {
		return 0
	}
	return ep.Stats().(*tcp.Stats).SegmentsReceived.Value()
}

// endpoint finds what a connection is made of, which gonet does not give away; nil if it has ended.
func (s *Stack) endpoint(c *tcpConn) tcpip.Endpoint {
	local, remote := addrPort(c.LocalAddr()), addrPort(c.TCPConn.RemoteAddr()) // without one it has ended
	if !local.IsValid() || !remote.IsValid() {
		return nil
	}
	id := stack.TransportEndpointID{
		LocalPort: local.Port(), LocalAddress: tcpip.AddrFromSlice(local.Addr().AsSlice()),
		RemotePort: remote.Port(), RemoteAddress: tcpip.AddrFromSlice(remote.Addr().AsSlice()),
	}
	ep, ok := s.stack.FindTransportEndpoint(protocolOf(local.Addr()), tcp.ProtocolNumber, id, nicID).(tcpip.Endpoint)
	if !ok {
		return nil
	}
	// Without a connection of these ends the search gives the listener.
	there, err := ep.GetRemoteAddress()
	if ip, ok := netip.AddrFromSlice(there.Addr.AsSlice()); err != nil || !ok || netip.AddrPortFrom(ip.Unmap(), there.Port) != remote {
		return nil
	}
	return ep
}

// addrPort returns the address of a TCP connection's end, the zero value if there is none any more.
func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok || t == nil {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
