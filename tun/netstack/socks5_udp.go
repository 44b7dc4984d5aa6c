package netstack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxLookups is how many names of an association's datagrams are looked up at a time; datagrams for more are dropped.
	maxLookups = 16

	// nameLife is how long an association keeps the address of a name, so that a stream of datagrams makes one look-up; maxNames is of how many.
	nameLife = 30 * time.Second
	maxNames = 256

	// maxSOCKSHeader is the length in bytes of the longest header that datagrams to the client have: that of IPv6.
	maxSOCKSHeader = 3 + 1 + 16 + 2
)

var errFragment = errors.New("fragments are not supported")

// association carries the datagrams of one client, for as long as its TCP connection is open (RFC 1928 section 7):
//
//	client: 00 00 FRAGMENT ADDRESS data -> outside -> inside, of the family of ADDRESS -> ADDRESS
//	client <- outside: 00 00 00 ADDRESS data <- inside <- ADDRESS
//
// One socket inside has the datagrams to all addresses, and takes those of all: what the client gets from one server about its address holds
// for another, as STUN and games expect.
type association struct {
	// Constant.
	p       *Proxy
	outside *net.UDPConn
	client  netip.Addr
	port    uint16 // of the client; 0: that of the first datagram
	ctx     context.Context
	last    atomic.Int64 // when the last datagram went either way, in nanoseconds since 1970
	sender  atomic.Pointer[netip.AddrPort]
	lookups chan struct{}
	tasks   sync.WaitGroup

	mu     sync.Mutex // guards the following
	closed bool
	inside [2]net.PacketConn // for IPv4 and IPv6; nil before the first datagram
	names  map[string]knownName
}

type knownName struct {
	ip    netip.Addr
	until time.Time
}

// associate serves an association until the client closes its connection or sends nothing for long.
func (p *Proxy) associate(c *proxyConn, from socksAddress) {
	select {
	case p.associations <- struct{}{}:
		defer func() { <-p.associations }()
	default:
		p.log.Debug("proxy: too many associations", "most", maxAssociations)
		answerSOCKS(c, replyFailure, netip.AddrPort{})
		return
	}
	local, remote := addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
	outside, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local.Addr(), 0)))
	if err != nil {
		p.log.Warn("proxy: no socket for UDP", "err", err)
		answerSOCKS(c, replyFailure, netip.AddrPort{})
		return
	}
	ctx, cancel := context.WithCancel(p.ctx)
	a := &association{
		p: p, outside: outside, client: remote.Addr(), port: from.port, ctx: ctx,
		lookups: make(chan struct{}, maxLookups), names: make(map[string]knownName),
	}
	a.touch()
	defer a.close(cancel)
	if answerSOCKS(c, replyOK, outside.LocalAddr().(*net.UDPAddr).AddrPort()) != nil {
		return
	}
	a.tasks.Go(a.receive)
	io.Copy(io.Discard, idleReader{c, a}) // ends with the connection
}

// idleReader reads until an association has been idle for too long.
type idleReader struct {
	c net.Conn
	a *association
}

func (r idleReader) Read(b []byte) (int, error) {
	for {
		r.c.SetReadDeadline(r.a.expiry())
		n, err := r.c.Read(b)
		if err == nil || !timeout(err) || time.Now().After(r.a.expiry()) {
			return n, err
		}
	}
}

func (a *association) touch() { a.last.Store(time.Now().UnixNano()) }

func (a *association) expiry() time.Time { return time.Unix(0, a.last.Load()).Add(udpIdle) }

func (a *association) close(cancel context.CancelFunc) {
	cancel()
	a.outside.Close()
	a.mu.Lock()
	a.closed = true
	for _, c := range a.inside {
		if c != nil {
			c.Close()
		}
	}
	a.mu.Unlock()
	a.tasks.Wait()
}

// receive takes the client's datagrams.
func (a *association) receive() {
	var failing pause
	buf := make([]byte, maxUDP)
	for {
		n, from, err := a.outside.ReadFromUDPAddrPort(buf)
		if err != nil {
			if !failing.wait(a.ctx, err) {
				return
			}
			continue
		}
		failing = pause{}
		if !a.admits(netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())) {
			continue
		}
		to, data, err := parseSOCKSDatagram(buf[:n])
		if err != nil {
			a.p.log.Debug("proxy: datagram dropped", "err", err)
			continue
		}
		a.touch()
		a.send(to, data)
	}
}

// admits reports whether a datagram is from the client: from the address of its connection, and the port that it has named or used first.
func (a *association) admits(from netip.AddrPort) bool {
	if from.Addr() != a.client {
		return false
	}
	if known := a.sender.Load(); known != nil {
		return *known == from
	}
	if a.port != 0 && from.Port() != a.port {
		return false
	}
	a.sender.Store(&from)
	return true
}

// parseSOCKSDatagram takes a client's datagram apart. The data is a part of b.
func parseSOCKSDatagram(b []byte) (to socksAddress, data []byte, err error) {
	if len(b) < 3 {
		return to, nil, io.ErrUnexpectedEOF
	}
	if b[2] != 0 {
		return to, nil, errFragment
	}
	r := bytes.NewReader(b[3:])
	if to, err = readSOCKSAddress(r); err != nil {
		return to, nil, err
	}
	return to, b[len(b)-r.Len():], nil
}

// send passes a datagram on. The look-up of a name doesn't hold up others.
func (a *association) send(to socksAddress, data []byte) {
	if to.ip.IsValid() {
		a.sendTo(netip.AddrPortFrom(to.ip, to.port), data)
		return
	}
	a.mu.Lock()
	known, ok := a.names[to.name]
	a.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		a.sendTo(netip.AddrPortFrom(known.ip, to.port), data)
		return
	}
	select {
	case a.lookups <- struct{}{}:
	default:
		return
	}
	data = bytes.Clone(data)
	a.tasks.Go(func() {
		defer func() { <-a.lookups }()
		ctx, cancel := context.WithTimeout(a.ctx, proxyDialTimeout)
		defer cancel()
		addresses, err := a.p.stack.LookupHost(ctx, to.name)
		if err != nil {
			a.p.log.Debug("proxy: datagram dropped", "err", err)
			return
		}
		for _, ip := range addresses {
			if a.sendTo(netip.AddrPortFrom(ip, to.port), data) {
				a.know(to.name, ip)
				return
			}
		}
	})
}

func (a *association) know(name string, ip netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.names) >= maxNames {
		clear(a.names)
	}
	a.names[name] = knownName{ip, time.Now().Add(nameLife)}
}

// sendTo reports whether there is a way to the address.
func (a *association) sendTo(to netip.AddrPort, data []byte) bool {
	ip := to.Addr()
	if to.Port() == 0 || !a.p.stack.routed(ip) || ip.Is4() && !a.p.stack.has4 || ip.Is6() && !a.p.stack.has6 {
		a.p.log.Debug("proxy: datagram dropped", "to", to, "err", ErrNoRoute)
		return false
	}
	c, err := a.socket(ip)
	if err == nil {
		_, err = c.WriteTo(data, &net.UDPAddr{IP: ip.AsSlice(), Port: int(to.Port())})
	}
	return err == nil
}

// socket returns the socket inside the tunnel for the family of an address.
func (a *association) socket(ip netip.Addr) (net.PacketConn, error) {
	family, unspecified := 0, netip.IPv4Unspecified()
	if ip.Is6() {
		family, unspecified = 1, netip.IPv6Unspecified()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, net.ErrClosed
	}
	if a.inside[family] == nil {
		c, err := a.p.stack.ListenUDP(netip.AddrPortFrom(unspecified, 0))
		if err != nil {
			return nil, err
		}
		a.inside[family] = c
		a.tasks.Go(func() { a.answer(c) })
	}
	return a.inside[family], nil
}

// answer carries what comes from the tunnel to the client.
func (a *association) answer(c net.PacketConn) {
	var failing pause
	buf := make([]byte, maxSOCKSHeader+maxUDP) // the header is put in front of the data
	for {
		n, from, err := c.ReadFrom(buf[maxSOCKSHeader:])
		if err != nil {
			if !failing.wait(a.ctx, err) {
				return
			}
			continue
		}
		failing = pause{}
		udp, ok := from.(*net.UDPAddr)
		client := a.sender.Load()
		if !ok || client == nil {
			continue
		}
		a.touch()
		var head [maxSOCKSHeader]byte
		h := appendSOCKSAddress(append(head[:0], 0, 0, 0), udp.AddrPort())
		out := buf[maxSOCKSHeader-len(h) : maxSOCKSHeader+n]
		copy(out, h)
		a.outside.WriteToUDPAddrPort(out, *client) // an error is as good as a loss on the way
	}
}
