package bind

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
)

// Batches are UDP sockets of one program that reads and writes packet by packet, such as pion's TURN server, and that the kernel is to see do
// so in batches:
//
//	ReadFrom -> recvmmsg, joined by the kernel where it can -> a packet for each call
//	WriteTo  -> kept, up to a batch
//	ReadFrom finds nothing left of its batch -> everything that was kept on any socket is sent, by destination and with segmentation offload
//
// So packets wait only while those that came with them are being handled. Who writes without reading afterwards has to call [Batches.Flush].
// The zero value is ready. All methods are safe for concurrent use.
type Batches struct {
	stats counters

	mu    sync.Mutex // guards the following
	dirty []*BatchConn
}

// BatchConn is one socket of [Batches]. It is a [net.PacketConn] in which WriteTo reports errors of earlier packets or none. Only one goroutine
// may call ReadFrom; all other methods are safe for concurrent use.
type BatchConn struct {
	*net.UDPConn
	group *Batches
	sock  *socket

	in       batchReader
	from     *net.UDPAddr // the source of the last packet, as most come from the same; owned by the reader
	fromAddr netip.AddrPort

	mu  sync.Mutex // guards the following
	out []*packet
}

var _ net.PacketConn = (*BatchConn)(nil)

// Listen opens a socket. Network is "udp4" or "udp6". Its packets are not fragmented, where the system can be told so: Linux leaves the choice to
// routers for those that it cuts itself, so that whether a large one comes through would depend on what it was sent with, and nobody could find out
// the MTU of the path.
func (g *Batches) Listen(network, address string) (*BatchConn, error) {
	lc := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		return errors.Join(enlargeConn(network, c), joinReceived(c), dontFragment(network, c))
	}}
	pc, err := lc.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	c := &BatchConn{UDPConn: pc.(*net.UDPConn), group: g}
	c.sock, err = newSocket(c.UDPConn, c.LocalAddr().(*net.UDPAddr).IP.To4() == nil)
	return c, err
}

// ReadFrom implements [net.PacketConn].
func (c *BatchConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.in.read(c, b)
	if err != nil {
		return 0, nil, err
	}
	if c.from == nil || from != c.fromAddr {
		c.from, c.fromAddr = net.UDPAddrFromAddrPort(from), from
	}
	return n, c.from, nil
}

// WriteTo implements [net.PacketConn].
func (c *BatchConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	u, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, fmt.Errorf("send to %v: not a UDP address", addr)
	}
	p := newPacket(b)
	p.src = unmapPort(u.AddrPort()) // where to
	c.mu.Lock()
	if c.out == nil {
		c.out = make([]*packet, 0, batchSize)
	}
	c.out = append(c.out, p)
	n := len(c.out)
	c.mu.Unlock()
	if n >= batchSize {
		return len(b), c.flush()
	}
	if n == 1 {
		c.group.mu.Lock()
		c.group.dirty = append(c.group.dirty, c)
		c.group.mu.Unlock()
	}
	return len(b), nil
}

// Flush sends what was written to any of the sockets.
func (g *Batches) Flush() {
	g.mu.Lock()
	dirty := g.dirty
	g.dirty = nil
	g.mu.Unlock()
	for _, c := range dirty {
		_ = c.flush() // as of any packet that is lost
	}
}

// flush sends what was written, runs of packets to one destination at once.
func (c *BatchConn) flush() error {
	c.mu.Lock()
	out := c.out
	c.out = nil
	c.mu.Unlock()
	var errs error
	var bufs [batchSize][]byte
	for len(out) > 0 {
		to := out[0].src
		n := slices.IndexFunc(out, func(p *packet) bool { return p.src != to })
		if n < 0 {
			n = len(out)
		}
		n = min(n, batchSize)
		for i, p := range out[:n] {
			bufs[i] = p.data
		}
		if _, err := c.sock.send(bufs[:n], newEndpoint(to, local{}), 0); err != nil {
			errs = err
		}
		for _, p := range out[:n] {
			p.free()
		}
		out = out[n:]
	}
	return errs
}
