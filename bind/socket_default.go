//go:build !linux || wice_portable

package bind

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// batchSize is the number of packets that one call sends or receives.
const batchSize = 1

// socket is the UDP socket of one address family, with the means that every system has: one packet per system call, and the source
// address is the kernel's choice. On Linux the tag wice_portable puts it in the place of the other, for tests and benchmarks.
type socket struct {
	conn  *net.UDPConn
	raw   syscall.RawConn
	v6    bool
	zones zones
}

// sockaddr is what Linux encodes addresses into.
type sockaddr struct{}

func encodeSockaddr(netip.AddrPort) sockaddr { return sockaddr{} }

func listen(network string, port uint16, mark uint32) (*socket, error) {
	c, err := listenConn(network, port, mark)
	if err != nil {
		return nil, err
	}
	return newSocket(c, network == "udp6")
}

// newSocket takes over a connection, and closes it if there is an error.
func newSocket(c *net.UDPConn, v6 bool) (*socket, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		c.Close()
		return nil, err
	}
	enlarge(c)
	return &socket{conn: c, raw: raw, v6: v6}, nil
}

// joinReceived does nothing: the system joins no datagrams.
func joinReceived(syscall.RawConn) error { return nil }

func controlListener(_ string, c syscall.RawConn, mark uint32) error {
	if mark == 0 {
		return nil
	}
	return markConn(c, mark)
}

// enlarge asks for big buffers, and for smaller ones where that is more than the system grants (FreeBSD: 1.8 MB). A refusal costs
// packets in bursts alone.
func enlarge(c *net.UDPConn) {
	for _, set := range []func(bytes int) error{c.SetReadBuffer, c.SetWriteBuffer} {
		for size := socketBuffer; size >= minSocketBuffer && set(size) != nil; size /= 2 {
		}
	}
}

// minSocketBuffer is above what systems give unasked.
const minSocketBuffer = 256 << 10

// enlargeConn leaves foreign sockets as they are: there is no portable way through a RawConn.
func enlargeConn(string, syscall.RawConn) error { return nil }

func (s *socket) port() uint16 { return connPort(s.conn) }

func (s *socket) close() error { return s.conn.Close() }

// send sends the packets one by one, as ChannelData if channel is not 0. When the buffer is full the runtime waits, which these systems
// hardly ever do for UDP.
func (s *socket) send(bufs [][]byte, ep *Endpoint, channel uint16) (dropped int, err error) {
	framed, dst := newPacket(nil), s.zones.named(ep.dst)
	defer framed.free()
	for _, b := range bufs {
		if channel != 0 {
			framed.data = appendChannelData(framed.data[:0], channel, b)
			b = framed.data
		}
		if _, err := s.conn.WriteToUDPAddrPort(b, dst); err != nil {
			if errors.Is(err, errNoBuffers) {
				dropped++
				continue
			}
			return dropped, fmt.Errorf("send to %s: %w", ep.dst, err)
		}
	}
	return dropped, nil
}

// receiveFunc returns the ReceiveFunc of the socket.
func (s *socket) receiveFunc(d *demux, closed <-chan struct{}) conn.ReceiveFunc {
	r := &receiver{sock: s, d: d, closed: closed}
	if s.v6 {
		return r.receiveIPv6
	}
	return r.receiveIPv4
}

// receiver belongs to the goroutine that receives.
type receiver struct {
	sock   *socket
	d      *demux
	closed <-chan struct{}
}

// The names of these two are what WireGuard's log shows.

func (r *receiver) receiveIPv4(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	return r.receive(bufs, sizes, eps)
}

func (r *receiver) receiveIPv6(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	return r.receive(bufs, sizes, eps)
}

// receive returns with one packet for WireGuard, or when the bind is closed. Other errors are no reason to stop.
func (r *receiver) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	for {
		n, from, err := r.sock.conn.ReadFromUDPAddrPort(bufs[0])
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return 0, net.ErrClosed
			}
			if errors.Is(err, errTooLong) { // Windows; anybody can send such a datagram, so that it must not cost a delay
				r.d.stats.dropped.Add(1)
				continue
			}
			select {
			case <-r.closed:
				return 0, net.ErrClosed
			case <-time.After(receiveDelay):
			}
			continue
		}
		o := origin{source: r.sock.zones.source(unmapPort(from))}
		if ep := r.d.route(bufs[0][:n], &o); ep != nil {
			sizes[0], eps[0] = n, ep
			return 1, nil
		}
	}
}

// receiveDelay keeps an error that stays from using the processor up.
const receiveDelay = time.Millisecond
