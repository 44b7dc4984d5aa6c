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
	// maxForwarded is how many connections, or UDP senders, one forward carries at a time. More connections wait; datagrams of more
	// senders are dropped.
	maxForwarded = 1024

	// forwardDialTimeout bounds the connection to a forward's target.
	forwardDialTimeout = 10 * time.Second

	// minPause and maxPause bound the time between two attempts of what fails again and again, such as an Accept without file descriptors.
	minPause = 5 * time.Millisecond
	maxPause = time.Second
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
	// Constant after Forward.
	forward Forward
	stack   *Stack
	log     *slog.Logger
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	ctx     context.Context
	cancel  context.CancelFunc
	open    io.Closer // the listener or packet connection; nil if it could not be made
	udpIdle time.Duration

	slots chan struct{} // one for each connection or sender
	tasks sync.WaitGroup
}

// Forward starts carrying connections or datagrams until the result, or the stack, is closed. A nil log is silent.
func (s *Stack) Forward(f Forward, log *slog.Logger) (*Forwarding, error) {
	return s.startForward(f, log, maxForwarded, udpIdle)
}

func (s *Stack) startForward(f Forward, log *slog.Logger, most int, idle time.Duration) (*Forwarding, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("forward", f.Network, "target", f.Target)
	w := &Forwarding{forward: f, stack: s, log: log, dial: s.DialPromptly, slots: make(chan struct{}, most), udpIdle: idle}
	w.ctx, w.cancel = context.WithCancel(s.ctx)
	listenTCP := func(a netip.AddrPort) (net.Listener, error) { return net.Listen("tcp", a.String()) }
	listenUDP := func(a netip.AddrPort) (net.PacketConn, error) { return net.ListenPacket("udp", a.String()) }
	listen := f.Listen
	if f.Inbound {
		w.dial = (&net.Dialer{}).DialContext
		listenTCP, listenUDP = s.ListenTCP, s.ListenUDP
		listen = netip.AddrPortFrom(s.wildcard(), f.Listen.Port())
	}
	if err := w.listen(listen, listenTCP, listenUDP); err != nil {
		return nil, errors.Join(fmt.Errorf("forward: %w", err), w.Close())
	}
	w.tasks.Go(func() {
		<-w.ctx.Done()
		w.open.Close()
	})
	return w, nil
}

// wildcard returns the address on which all families that the stack has are listened to: gVisor's IPv6 one takes IPv4 too.
func (s *Stack) wildcard() netip.Addr {
	if s.has6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func (w *Forwarding) listen(a netip.AddrPort, tcp func(netip.AddrPort) (net.Listener, error), udp func(netip.AddrPort) (net.PacketConn, error)) error {
	switch w.forward.Network {
	case "tcp":
		l, err := tcp(a)
		if err != nil {
			return err
		}
		w.open = l
		w.tasks.Go(func() { w.acceptTCP(l) })
	case "udp":
		c, err := udp(a)
		if err != nil {
			return err
		}
		w.open = c
		w.tasks.Go(func() { w.receiveUDP(c) })
	default:
		return fmt.Errorf("network %q: want tcp or udp", w.forward.Network)
	}
	return nil
}

// Close ends the forward and its connections, and waits for them. It is idempotent.
func (w *Forwarding) Close() error {
	w.cancel()
	if w.open != nil {
		w.open.Close()
	}
	w.tasks.Wait()
	return nil
}

// pause waits between two attempts of what fails again and again: each time for twice as long. Its zero value is ready.
type pause struct{ next time.Duration }

// wait returns false if there is to be no other attempt, as what fails was closed.
func (p *pause) wait(ctx context.Context, err error) bool {
	if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
		return false
	}
	p.next = min(max(2*p.next, minPause), maxPause)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(p.next):
		return true
	}
}

// first reports whether the last attempt was the first that failed.
func (p *pause) first() bool { return p.next <= minPause }
