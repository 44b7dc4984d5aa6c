package bind

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
)

// TURNSocket is the UDP socket of a TURN client, and a [Carrier]. The client uses it as a [net.PacketConn], with one server.
//
// Only one goroutine may call ReadFrom, which is what keeps packets flowing; all other methods are safe for concurrent use.
type TURNSocket struct {
	carrier
	sock   *socket
	server atomic.Pointer[Endpoint] // where the client sends to; nil before it did

	in turnReader // of ReadFrom
}

var (
	_ Carrier        = (*TURNSocket)(nil)
	_ net.PacketConn = (*TURNSocket)(nil)
	_ syscall.Conn   = (*TURNSocket)(nil)
)

// ListenTURN opens a socket for a TURN client. Network is "udp4", "udp6" or "udp", which is both. It gets the mark and big buffers, as with
// [Bind.ControlSocket], and may be used while the bind is closed.
func (b *Bind) ListenTURN(network, address string) (*TURNSocket, error) {
	lc := net.ListenConfig{Control: func(network, address string, c syscall.RawConn) error {
		if err := b.ControlSocket(network, address, c); err != nil {
			return err
		}
		return joinReceived(c)
	}}
	pc, err := lc.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	conn := pc.(*net.UDPConn)
	sock, err := newSocket(conn, conn.LocalAddr().(*net.UDPAddr).IP.To4() == nil)
	if err != nil {
		return nil, err
	}
	return &TURNSocket{carrier: carrier{relay: b.relay}, sock: sock}, nil
}

// ReadFrom implements [net.PacketConn]: the next message of the server for the client. Packets of WireGuard go where they belong.
func (t *TURNSocket) ReadFrom(b []byte) (int, net.Addr, error) {
	m, err := t.in.next(t)
	if err != nil {
		return 0, nil, err
	}
	n := copy(b, m)
	if n < len(m) {
		err = io.ErrShortBuffer
	}
	return n, net.UDPAddrFromAddrPort(t.server.Load().dst), err
}

// fromServer reports whether the source is that of the client's server.
func (t *TURNSocket) fromServer(s source) bool {
	e := t.server.Load()
	return e != nil && e.key == s
}

// WriteTo implements [net.PacketConn]: it sends a message of the client.
func (t *TURNSocket) WriteTo(b []byte, addr net.Addr) (int, error) {
	u, ok := addr.(*net.UDPAddr)
	if !ok || u == nil {
		return 0, fmt.Errorf("send to %v: not a UDP address", addr)
	}
	if dst := unmapPort(u.AddrPort()); t.server.Load() == nil || t.server.Load().dst != dst {
		t.server.Store(t.endpoint(dst))
	}
	t.channels.sent(b)
	return t.sock.conn.WriteTo(b, addr)
}

// endpoint returns the endpoint of a server for this socket, which may be one of IPv6 that reaches IPv4 as well.
func (t *TURNSocket) endpoint(dst netip.AddrPort) *Endpoint {
	e := newEndpoint(dst, local{})
	if t.sock.v6 && dst.Addr().Is4() {
		e.sa = encodeSockaddr(netip.AddrPortFrom(netip.AddrFrom16(dst.Addr().As16()), dst.Port()))
	}
	return e
}

// carry implements [Carrier].
func (t *TURNSocket) carry(bufs [][]byte, peer netip.AddrPort) bool {
	e, number := t.server.Load(), t.channels.number(peer)
	if e == nil || number == 0 {
		return false
	}
	dropped, err := t.sock.send(bufs, e, number)
	if err != nil {
		dropped = len(bufs) // at most; ICE replaces a path that does not work
	}
	if dropped > 0 {
		t.relay.stats.relaySendDrops.Add(uint64(dropped))
	}
	return true
}

// Close implements [net.PacketConn]. It unblocks ReadFrom.
func (t *TURNSocket) Close() error { return t.sock.close() }

// LocalAddr implements [net.PacketConn].
func (t *TURNSocket) LocalAddr() net.Addr { return t.sock.conn.LocalAddr() }

// SetDeadline implements [net.PacketConn].
func (t *TURNSocket) SetDeadline(d time.Time) error { return t.sock.conn.SetDeadline(d) }

// SetReadDeadline implements [net.PacketConn].
func (t *TURNSocket) SetReadDeadline(d time.Time) error { return t.sock.conn.SetReadDeadline(d) }

// SetWriteDeadline implements [net.PacketConn].
func (t *TURNSocket) SetWriteDeadline(d time.Time) error { return t.sock.conn.SetWriteDeadline(d) }

// SyscallConn implements [syscall.Conn].
func (t *TURNSocket) SyscallConn() (syscall.RawConn, error) { return t.sock.conn.SyscallConn() }
