package netstack

import (
	"io"
	"net"
	"os"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// tcpConn is a TCP connection that behaves as those of package net. gVisor's errors are texts, what was closed looks to it like what the other end
// has ended, so that half of the data can be taken for all of it, and a connection that was reset has no remote address any more.
type tcpConn struct {
	*gonet.TCPConn
	s      *Stack
	remote net.Addr
	closed atomic.Bool
}

func (s *Stack) newTCPConn(c *gonet.TCPConn) *tcpConn {
	remote := c.RemoteAddr()
	if remote == nil { // it has ended already
		remote = new(net.TCPAddr)
	}
	return &tcpConn{TCPConn: c, s: s, remote: remote}
}

func (c *tcpConn) RemoteAddr() net.Addr { return c.remote }

func (c *tcpConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	return n, c.s.connError("tcp", err, &c.closed)
}

func (c *tcpConn) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	return n, c.s.connError("tcp", err, &c.closed)
}

func (c *tcpConn) Close() error {
	c.closed.Store(true)
	return c.TCPConn.Close()
}

// udpConn is the same for UDP.
type udpConn struct {
	*gonet.UDPConn
	s      *Stack
	closed atomic.Bool
}

func (c *udpConn) Read(b []byte) (int, error) {
	n, err := c.UDPConn.Read(b)
	return n, c.s.connError("udp", err, &c.closed)
}

func (c *udpConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.UDPConn.ReadFrom(b)
	return n, from, c.s.connError("udp", err, &c.closed)
}

func (c *udpConn) Write(b []byte) (int, error) {
	n, err := c.UDPConn.Write(b)
	return n, c.s.connError("udp", err, &c.closed)
}

func (c *udpConn) WriteTo(b []byte, to net.Addr) (int, error) {
	n, err := c.UDPConn.WriteTo(b, to)
	return n, c.s.connError("udp", err, &c.closed)
}

func (c *udpConn) Close() error {
	c.closed.Store(true)
	return c.UDPConn.Close()
}

// connError gives an error of a connection its standard form.
func (s *Stack) connError(network string, err error, closed *atomic.Bool) error {
	if err == nil {
		return nil
	}
	op, ok := err.(*net.OpError)
	if !ok {
		op = &net.OpError{Op: "read", Net: network, Err: err} // io.EOF
	}
	switch standard := gvisorErrors[op.Err.Error()]; {
	case closed.Load() || s.ctx.Err() != nil:
		op.Err = net.ErrClosed
	case err == io.EOF:
		return err
	case op.Timeout():
		op.Err = os.ErrDeadlineExceeded
	case s.use() != nil:
		op.Err = net.ErrClosed
	case standard != nil:
		op.Err = standard
	}
	return op
}
