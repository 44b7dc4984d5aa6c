package netstack

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// minAttempt is the least time that one of several addresses is given, where the context has a deadline.
const minAttempt = 2 * time.Second

// forever is the patience of a dial that only its context ends.
const forever time.Duration = math.MaxInt64

// errNoAddress says that a host has no address of a family that the stack and the network's name permit.
var errNoAddress = errors.New("no address that can be reached from the tunnel's")

// DialContext connects as net.Dialer does, through the tunnel: network is tcp, tcp4, tcp6, udp, udp4 or udp6, and
// names are those of peers, or are asked of the tunnel's DNS servers. The addresses of a name are tried one after the other.
func (s *Stack) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return s.DialPatiently(ctx, network, address, forever)
}

// DialPromptly is DialContext for programs that wait for an answer and might take it elsewhere: a peer that is known to be down is not waited
// for, however much time there is.
func (s *Stack) DialPromptly(ctx context.Context, network, address string) (net.Conn, error) {
	return s.DialPatiently(ctx, network, address, downAfter)
}

// DialPatiently is DialContext, and waits only for some time for a peer that is known to be down.
func (s *Stack) DialPatiently(ctx context.Context, network, address string, patience time.Duration) (net.Conn, error) {
	c, err := s.dial(ctx, network, address, patience)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: &dialError{address, err}}
	}
	return c, nil
}

// dialError names what was dialed, and is a time-out where its cause is one: [net.OpError] looks no deeper.
type dialError struct {
	address string
	err     error
}

func (e *dialError) Error() string { return e.address + ": " + e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }
func (e *dialError) Timeout() bool { return errors.Is(e.err, context.DeadlineExceeded) }

func (s *Stack) dial(ctx context.Context, network, address string, patience time.Duration) (net.Conn, error) {
	if !slices.Contains([]string{"tcp", "tcp4", "tcp6", "udp", "udp4", "udp6"}, network) {
		return nil, net.UnknownNetworkError(network)
	}
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q is not a number up to 65535", portText)
	}
	addresses, err := s.LookupHost(ctx, host)
	if err != nil {
		return nil, err
	}
	addresses = slices.DeleteFunc(addresses, func(a netip.Addr) bool {
		return a.Is4() && (!s.has4 || network[3:] == "6") || a.Is6() && (!s.has6 || network[3:] == "4")
	})
	if len(addresses) == 0 {
		return nil, errNoAddress
	}
	var failed []error
	for i, a := range addresses {
		if waited := new(noAnswer); errors.As(err, &waited) && patience != forever && s.down(a) {
			continue // its peer, most likely the same one, has had that time too
		}
		remote := netip.AddrPortFrom(a, uint16(port))
		var c net.Conn
		switch {
		case !s.routed(a):
			err = ErrNoRoute
		case network[:3] == "udp":
			c, err = s.DialUDP(netip.AddrPort{}, remote)
		default:
			c, err = s.dialTCP(ctx, remote, len(addresses)-i, patience)
		}
		if err == nil {
			return c, nil
		}
		if a.String() != host {
			err = fmt.Errorf("%s: %w", a, err)
		}
		failed = append(failed, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(failed...)
}

// dialTCP tries one address of several, for a fair share of the time that is left.
func (s *Stack) dialTCP(ctx context.Context, remote netip.AddrPort, left int, patience time.Duration) (net.Conn, error) {
	if err := s.use(); err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, max(time.Until(deadline)/time.Duration(left), minAttempt))
		defer cancel()
	}
	if patience != forever {
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		defer cancel(nil)
		go s.watch(ctx, remote.Addr(), patience, cancel)
	}
	start := time.Now()
	full, protocol := fullAddress(remote)
	c, err := gonet.DialContextTCP(ctx, s.stack, full, protocol)
	if err != nil {
		var known *noAnswer
		switch why := context.Cause(ctx); {
		case errors.As(why, &known):
			return nil, known
		case errors.Is(why, context.DeadlineExceeded):
			return nil, s.noAnswer(remote.Addr(), start)
		}
		return nil, standardError(err)
	}
	return s.newTCPConn(c), nil
}

// DialUDP makes a UDP connection to remote. A zero local takes an address and a port of the stack's choice.
func (s *Stack) DialUDP(local, remote netip.AddrPort) (net.Conn, error) {
	if !remote.IsValid() || remote.Port() == 0 {
		return nil, &net.OpError{Op: "dial", Net: "udp", Err: fmt.Errorf("%v is no address to send to", remote)}
	}
	c, err := s.udp(local, &remote)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "udp", Err: fmt.Errorf("%s: %w", remote, err)}
	}
	return &udpConn{UDPConn: c, s: s}, nil
}

// ListenUDP receives the datagrams to one of the stack's addresses, or with an unspecified address those to all of that
// family. Port 0 takes a free one.
func (s *Stack) ListenUDP(local netip.AddrPort) (net.PacketConn, error) {
	c, err := s.udp(local, nil)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "udp", Err: fmt.Errorf("%s: %w", local, err)}
	}
	return &udpConn{UDPConn: c, s: s}, nil
}

func (s *Stack) udp(local netip.AddrPort, remote *netip.AddrPort) (*gonet.UDPConn, error) {
	if err := s.use(); err != nil {
		return nil, err
	}
	if remote == nil {
		if !local.IsValid() {
			return nil, fmt.Errorf("%v is no address", local)
		}
		full, protocol := localAddress(local)
		return s.bindUDP(&full, nil, protocol)
	}
	to, protocol := fullAddress(*remote)
	var from *tcpip.FullAddress
	if local.IsValid() {
		full, localProtocol := localAddress(local)
		if localProtocol != protocol {
			return nil, fmt.Errorf("%s is not of the family of the other end", local)
		}
		from = &full
	}
	return s.bindUDP(from, &to, protocol)
}

func (s *Stack) bindUDP(local, remote *tcpip.FullAddress, protocol tcpip.NetworkProtocolNumber) (*gonet.UDPConn, error) {
	c, err := gonet.DialUDP(s.stack, local, remote, protocol)
	if err != nil {
		return nil, standardError(err)
	}
	return c, nil
}

// ListenTCP accepts connections to one of the stack's addresses, or with an unspecified address to all of that family.
// Port 0 takes a free one.
func (s *Stack) ListenTCP(local netip.AddrPort) (net.Listener, error) {
	if !local.IsValid() {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: fmt.Errorf("%v is no address", local)}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: net.ErrClosed}
	}
	inner, err := s.listenTCP(local)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: fmt.Errorf("%s: %w", local, err)}
	}
	l := &listener{TCPListener: inner, s: s}
	s.listeners[l] = struct{}{}
	return l, nil
}

// listenTCP is gonet.ListenTCP with a longer backlog.
func (s *Stack) listenTCP(local netip.AddrPort) (*gonet.TCPListener, error) {
	full, protocol := localAddress(local)
	var queue waiter.Queue
	ep, err := s.stack.NewEndpoint(tcp.ProtocolNumber, protocol, &queue)
	if err != nil {
		return nil, errors.New(err.String())
	}
	ep.SocketOptions().SetReuseAddress(true) // as package net: what a listener of before has accepted does not hold the port
	if err = ep.Bind(full); err == nil {
		err = ep.Listen(backlog)
	}
	if err != nil {
		ep.Close()
		return nil, standardError(errors.New(err.String()))
	}
	return gonet.NewTCPListener(s.stack, &queue, ep), nil
}

// listener wakes Accept when it is closed, and says net.ErrClosed then, as servers expect.
type listener struct {
	*gonet.TCPListener
	s *Stack
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.TCPListener.Accept()
	if err == nil {
		return l.s.newTCPConn(c.(*gonet.TCPConn)), nil
	}
	l.s.mu.Lock()
	_, open := l.s.listeners[l]
	l.s.mu.Unlock()
	if !open {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
	return nil, err
}

func (l *listener) Close() error {
	l.s.mu.Lock()
	_, open := l.s.listeners[l]
	delete(l.s.listeners, l)
	l.s.mu.Unlock()
	if !open {
		return nil
	}
	l.TCPListener.Shutdown()
	return l.TCPListener.Close()
}
