package netstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxForwarded is how many connections, or UDP senders, one forward carries at a time. More wait, or are dropped.
	maxForwarded = 1024

	// forwardDialTimeout bounds the connection to a forward's target.
	forwardDialTimeout = 10 * time.Second

	// udpIdle is how long a UDP sender keeps its socket without a datagram either way: twice what RFC 4787 asks of a NAT as a minimum.
	udpIdle = 4 * time.Minute

	maxUDP = 65535 // bytes of a datagram

)

// Forward says what to carry where.
type Forward struct {
	Network string         // "tcp" or "udp"
	Inbound bool           // listens inside the tunnel and dials outside; else the other way round
	Listen  netip.AddrPort // inbound: the port alone counts
	Target  string         // host:port; a name is resolved for each connection
}

// Forwarding is a forward at work.
type Forwarding struct {
	forward Forward
	log     *slog.Logger
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	ctx     context.Context
	cancel  context.CancelFunc
	open    []io.Closer
	slots   chan struct{}
	tasks   sync.WaitGroup
}

// Forward starts carrying connections or datagrams until the result is closed. A nil log is silent.
func (s *Stack) Forward(f Forward, log *slog.Logger) (*Forwarding, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	w := &Forwarding{forward: f, log: log, dial: s.DialContext, slots: make(chan struct{}, maxForwarded)}
	w.ctx, w.cancel = context.WithCancel(s.ctx)
	listenTCP := func(a netip.AddrPort) (net.Listener, error) { return net.Listen("tcp", a.String()) }
	listenUDP := func(a netip.AddrPort) (net.PacketConn, error) { return net.ListenPacket("udp", a.String()) }
	listen := []netip.AddrPort{f.Listen}
	if f.Inbound {
		w.dial = (&net.Dialer{}).DialContext
		listenTCP, listenUDP = s.ListenTCP, s.ListenUDP
		listen = s.unspecified(f.Listen.Port())
	}
	for _, a := range listen {
		if err := w.listen(a, listenTCP, listenUDP); err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	return w, nil
}

// unspecified returns the wildcard address of each family that the stack has.
func (s *Stack) unspecified(port uint16) (list []netip.AddrPort) {
	if s.has4 {
		list = append(list, netip.AddrPortFrom(netip.IPv4Unspecified(), port))
	}
	if s.has6 {
		list = append(list, netip.AddrPortFrom(netip.IPv6Unspecified(), port))
	}
	return list
}

func (w *Forwarding) listen(a netip.AddrPort, tcp func(netip.AddrPort) (net.Listener, error), udp func(netip.AddrPort) (net.PacketConn, error)) error {
	switch w.forward.Network {
	case "tcp":
		l, err := tcp(a)
		if err != nil {
			return fmt.Errorf("forward: %w", err)
		}
		w.open = append(w.open, l)
		w.tasks.Go(func() { w.acceptTCP(l) })
	case "udp":
		c, err := udp(a)
		if err != nil {
			return fmt.Errorf("forward: %w", err)
		}
		w.open = append(w.open, c)
		w.tasks.Go(func() { w.receiveUDP(c) })
	default:
		return fmt.Errorf("forward: network %q: want tcp or udp", w.forward.Network)
	}
	return nil
}

// Close ends the forward and its connections, and waits for them. It is idempotent.
func (w *Forwarding) Close() error {
	w.cancel()
	for _, c := range w.open {
		c.Close()
	}
	w.tasks.Wait()
	return nil
}

func (w *Forwarding) acceptTCP(l net.Listener) {
	for {
		select {
		case w.slots <- struct{}{}:
		case <-w.ctx.Done():
			return
		}
		c, err := l.Accept()
		if err != nil {
			if w.ctx.Err() == nil {
				w.log.Error("forward ended", "forward", w.forward.Target, "err", err)
			}
			return
		}
		w.tasks.Go(func() {
			defer func() { <-w.slots }()
			w.carryTCP(c)
		})
	}
}

// carryTCP copies both ways; the end of one direction is passed on as such, and the other goes on.
func (w *Forwarding) carryTCP(in net.Conn) {
	defer in.Close()
	ctx, cancel := context.WithTimeout(w.ctx, forwardDialTimeout)
	out, err := w.dial(ctx, "tcp", w.forward.Target)
	cancel()
	if err != nil {
		w.log.Warn("forward: target not reached", "target", w.forward.Target, "err", err)
		return
	}
	defer out.Close()
	stop := context.AfterFunc(w.ctx, func() { in.Close(); out.Close() })
	defer stop()
	var back sync.WaitGroup
	back.Go(func() { copyHalf(in, out) })
	copyHalf(out, in)
	back.Wait()
}

func copyHalf(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		from.Close()
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}

// receiveUDP gives each sender a socket of its own towards the target, as a NAT does.
func (w *Forwarding) receiveUDP(c net.PacketConn) {
	var mu sync.Mutex
	senders := make(map[string]net.Conn)
	buf := make([]byte, maxUDP)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			if w.ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				continue // an ICMP error of an earlier answer
			}
			return
		}
		key := from.String()
		mu.Lock()
		out := senders[key]
		mu.Unlock()
		if out == nil {
			if out = w.dialUDP(); out == nil {
				continue
			}
			mu.Lock()
			senders[key] = out
			mu.Unlock()
			w.tasks.Go(func() {
				defer func() { <-w.slots }()
				w.answerUDP(c, out, from)
				mu.Lock()
				delete(senders, key)
				mu.Unlock()
			})
		}
		out.SetReadDeadline(time.Now().Add(udpIdle))
		out.Write(buf[:n])
	}
}

func (w *Forwarding) dialUDP() net.Conn {
	select {
	case w.slots <- struct{}{}:
	default:
		w.log.Warn("forward: too many senders, datagram dropped", "target", w.forward.Target)
		return nil
	}
	ctx, cancel := context.WithTimeout(w.ctx, forwardDialTimeout)
	defer cancel()
	out, err := w.dial(ctx, "udp", w.forward.Target)
	if err != nil {
		<-w.slots
		w.log.Warn("forward: target not reached", "target", w.forward.Target, "err", err)
		return nil
	}
	return out
}

func (w *Forwarding) answerUDP(c net.PacketConn, out net.Conn, to net.Addr) {
	defer out.Close()
	stop := context.AfterFunc(w.ctx, func() { out.Close() })
	defer stop()
	buf := make([]byte, maxUDP)
	for {
		n, err := out.Read(buf)
		if err != nil {
			return
		}
		out.SetReadDeadline(time.Now().Add(udpIdle))
		if _, err := c.WriteTo(buf[:n], to); err != nil {
			return
		}
	}
}
