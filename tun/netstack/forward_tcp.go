package netstack

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
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

// acceptTCP takes a connection only once the last one has its slot: others wait in the listener's queue.
func (w *Forwarding) acceptTCP(l net.Listener) {
	var failing pause
	for {
		c, err := l.Accept()
		if err != nil {
			if !failing.wait(w.ctx, err) {
				return
			}
			if failing.first() {
				w.log.Warn("forward: accept failed, trying again", "err", err)
			}
			continue
		}
		failing = pause{}
		select {
		case w.slots <- struct{}{}:
		case <-w.ctx.Done():
			c.Close()
			return
		}
		w.tasks.Go(func() {
			defer func() { <-w.slots }()
			w.carryTCP(c)
		})
	}
}

// carryTCP copies both ways; the end of one direction is passed on as such, and the other goes on. A failure is passed on as a reset, lest
// the other end takes half of the data for all of it.
func (w *Forwarding) carryTCP(in net.Conn) {
	defer in.Close()
	ctx, cancel := context.WithTimeout(w.ctx, forwardDialTimeout)
	out, err := w.dial(ctx, "tcp", w.forward.Target)
	cancel()
	if err != nil {
		if w.ctx.Err() == nil {
			w.log.Warn("forward: target not reached", "err", err)
		}
		w.stack.reset(in)
		return
	}
	defer out.Close()
	stop := context.AfterFunc(w.ctx, func() { w.stack.reset(in, out) })
	defer stop()
	w.stack.keepAlive(in, out)
	var back sync.WaitGroup
	back.Go(func() { w.stack.copyHalf(in, out) })
	w.stack.copyHalf(out, in)
	back.Wait()
}

func (s *Stack) copyHalf(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		s.reset(to, from)
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}

// reset closes connections of this stack or of the kernel's so that the other ends see an error, not an end.
func (s *Stack) reset(conns ...net.Conn) {
	for _, c := range conns {
		if inside, ok := c.(*gonet.TCPConn); ok {
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
		inside, ok := c.(*gonet.TCPConn)
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

// giveUp ends a connection of this stack when what it sends is not acknowledged for so long.
func (s *Stack) giveUp(c net.Conn, after time.Duration) {
	if inside, ok := c.(*gonet.TCPConn); ok {
		if ep := s.endpoint(inside); ep != nil {
			limit := tcpip.TCPUserTimeoutOption(after)
			ep.SetSockOpt(&limit)
		}
	}
}

// endpoint finds what a connection is made of, which gonet does not give away; nil if it has ended.
func (s *Stack) endpoint(c *gonet.TCPConn) tcpip.Endpoint {
	local, remote := addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
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
