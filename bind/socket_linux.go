//go:build !wice_portable

package bind

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// batchSize is the number of packets that one call sends or receives.
const batchSize = 128

// socket is the UDP socket of one address family. The way of a packet:
//
//	send: Endpoint -> sender (pooled): group equal sizes into one message each (UDP_SEGMENT), source as PKTINFO -> sendmmsg
//	receive: recvmmsg into the receiver's arena (UDP_GRO) -> source and PKTINFO once per datagram -> classify and copy each segment
//
// Sending takes no lock: the descriptor is held by reference count. Receiving belongs to one goroutine.
//
// These system calls do not block, so they are made without telling the scheduler (RawSyscall). A batch of 64 KiB takes tens of
// microseconds; a thread that the scheduler knows to be gone for so long loses its processor to another one, which has to be woken.
// That cost a fifth of the throughput (docs/benchmarks.md).
type socket struct {
	conn *net.UDPConn
	raw  syscall.RawConn
	v6   bool
	gso  atomic.Bool // send with UDP_SEGMENT
}

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
	s := &socket{conn: c, raw: raw, v6: v6}
	raw.Control(func(fd uintptr) {
		_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		s.gso.Store(err == nil && !segmentationDisabled())
	})
	return s, nil
}

func (s *socket) port() uint16 { return connPort(s.conn) }

func (s *socket) close() error { return s.conn.Close() }

// controlListener sets a new socket up before it is bound, so that nothing arrives without its local address.
func controlListener(network string, c syscall.RawConn, mark uint32) (err error) {
	cerr := c.Control(func(fd uintptr) { err = setOptions(int(fd), network, mark) })
	if cerr != nil {
		return cerr
	}
	return err
}

func setOptions(fd int, network string, mark uint32) error {
	setBuffers(fd)
	if mark != 0 {
		if err := setMark(fd, mark); err != nil {
			return err
		}
	}
	var err error
	if network == "udp6" {
		if err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return fmt.Errorf("set IPV6_V6ONLY: %w", err)
		}
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	} else {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	}
	if err != nil {
		return fmt.Errorf("ask for local addresses of received packets: %w", err)
	}
	setJoin(fd)
	return nil
}

// setJoin lets the kernel join what arrives. Kernels before 5.0 have no UDP_GRO; then datagrams arrive one by one.
func setJoin(fd int) {
	if !segmentationDisabled() {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	}
}

// joinReceived is setJoin for a socket that is not bound yet.
func joinReceived(c syscall.RawConn) error {
	return c.Control(func(fd uintptr) { setJoin(int(fd)) })
}

// setBuffers asks for big buffers: first within the limits of net.core.[rw]mem_max, then beyond, which needs CAP_NET_ADMIN. A
// refusal costs packets in bursts alone, so that it is no error.
func setBuffers(fd int) {
	for _, opt := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, socketBuffer)
	}
}

// enlargeConn gives a UDP socket big buffers.
func enlargeConn(network string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "udp") {
		return nil
	}
	return c.Control(func(fd uintptr) { setBuffers(int(fd)) })
}
