package netstack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// SOCKS 5 (RFC 1928) with user and password (RFC 1929). A connection begins with
//
//	client                                  server
//	05 n METHOD...                       -> 05 METHOD              METHOD: 00 none, 02 password, ff neither is acceptable
//	01 n USER n PASSWORD (method 02)     -> 01 STATUS              STATUS: 00 welcome
//	05 COMMAND 00 ADDRESS                -> 05 REPLY 00 ADDRESS    COMMAND: 01 connect, 03 UDP associate
//
// where ADDRESS is 01 IPv4, 04 IPv6 or 03 n NAME, each followed by a port. The data follows.
const (
	socksVersion  = 5
	socksPassword = 1 // version of the negotiation with a password

	methodNone     = 0x00
	methodPassword = 0x02
	methodNoneFits = 0xff

	commandConnect   = 1
	commandAssociate = 3

	addressIPv4 = 1
	addressName = 3
	addressIPv6 = 4

	// maxRefused is how many bytes are read of a client that is refused, and refusedWait how long it is waited for them.
	maxRefused  = 1 << 20
	refusedWait = 2 * time.Second
)

// socks4Refusal is the answer to a request of SOCKS 4, and httpRefusal that to one for an HTTP proxy.
const (
	socks4Refusal = "\x00\x5b\x00\x00\x00\x00\x00\x00"
	httpRefusal   = "HTTP/1.1 501 SOCKS 5 proxy\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n" +
		"wice-go: this is the port of a SOCKS 5 proxy, not of an HTTP proxy\n"
)

// socksReply is what a client is told about its request.
type socksReply byte

const (
	replyOK              socksReply = 0
	replyFailure         socksReply = 1
	replyNoRoute         socksReply = 3 // "network unreachable"
	replyHostUnreachable socksReply = 4
	replyRefused         socksReply = 5
	replyTimeout         socksReply = 6 // "TTL expired", as Tor says it
	replyBadCommand      socksReply = 7
	replyBadAddress      socksReply = 8
)

// socksReplies has the reply for each failure to connect.
var socksReplies = map[failure]socksReply{
	failedOther: replyFailure, failedRoute: replyNoRoute, failedName: replyHostUnreachable, failedRefusal: replyRefused, failedTimeout: replyTimeout,
}

var (
	errSOCKSVersion = errors.New("not SOCKS 5")
	errSOCKSAddress = errors.New("not an address of SOCKS 5")
	errSOCKSUser    = errors.New("wrong user or password, or none")
)

// ServeSOCKS5 starts a SOCKS 5 proxy into the tunnel, with CONNECT and UDP ASSOCIATE. It ends with Close or with the stack.
func (s *Stack) ServeSOCKS5(o ProxyOptions) (*Proxy, error) {
	p, err := s.listenProxy("SOCKS5", o)
	if err != nil {
		return nil, err
	}
	p.start(func() {
		for c := p.accept(); c != nil; c = p.accept() {
			go p.serveSOCKS(c) // Close waits for the connection to be closed
		}
	}, func() {})
	return p, nil
}

func (p *Proxy) serveSOCKS(c *proxyConn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(p.opts.greeting))
	command, to, err := p.greet(c)
	if err != nil {
		if errors.Is(err, errSOCKSAddress) {
			answerSOCKS(c, replyBadAddress, netip.AddrPort{})
		}
		p.log.Debug("proxy: request refused", "client", c.RemoteAddr(), "err", err)
		if !timeout(err) { // else what the client has sent besides would turn the end into a reset, which takes the answer with it
			c.CloseWrite()
			c.SetDeadline(time.Now().Add(refusedWait))
			io.CopyN(io.Discard, c, maxRefused)
		}
		return
	}
	c.SetDeadline(time.Time{})
	switch command {
	case commandConnect:
		p.connect(c, to)
	case commandAssociate:
		p.associate(c, to)
	default:
		answerSOCKS(c, replyBadCommand, netip.AddrPort{})
	}
}

// greet reads what a client wants, and sends all but the last answer. It reads no byte of what comes after.
func (p *Proxy) greet(c io.ReadWriter) (command byte, to socksAddress, err error) {
	var head [3]byte
	if _, err := io.ReadFull(c, head[:2]); err != nil {
		return 0, to, err
	}
	if head[0] != socksVersion {
		switch first := head[0]; {
		case first == 4:
			io.WriteString(c, socks4Refusal)
		case 'A' <= first && first <= 'Z':
			io.WriteString(c, httpRefusal)
		}
		return 0, to, errSOCKSVersion
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(c, methods); err != nil {
		return 0, to, err
	}
	method := byte(methodNone)
	if p.opts.User != "" {
		method = methodPassword
	}
	if !slices.Contains(methods, method) {
		c.Write([]byte{socksVersion, methodNoneFits})
		return 0, to, errSOCKSUser
	}
	if _, err := c.Write([]byte{socksVersion, method}); err != nil {
		return 0, to, err
	}
	if method == methodPassword {
		if err := p.checkPassword(c); err != nil {
			return 0, to, err
		}
	}
	if _, err := io.ReadFull(c, head[:3]); err != nil {
		return 0, to, err
	}
	if head[0] != socksVersion {
		return 0, to, errSOCKSVersion
	}
	to, err = readSOCKSAddress(c)
	return head[1], to, err
}

func (p *Proxy) checkPassword(c io.ReadWriter) error {
	var version [1]byte
	if _, err := io.ReadFull(c, version[:]); err != nil {
		return err
	}
	if version[0] != socksPassword {
		return errSOCKSVersion
	}
	user, err := readShort(c)
	if err != nil {
		return err
	}
	password, err := readShort(c)
	if err != nil {
		return err
	}
	if !p.opts.allows(user, password) {
		c.Write([]byte{socksPassword, 1})
		return errSOCKSUser
	}
	_, err = c.Write([]byte{socksPassword, 0})
	return err
}

// readShort reads a text that follows its length.
func readShort(r io.Reader) (string, error) {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return "", err
	}
	text := make([]byte, n[0])
	_, err := io.ReadFull(r, text)
	return string(text), err
}

// socksAddress is an address as clients give it: with an IP address, or with the name of a host.
type socksAddress struct {
	ip   netip.Addr // invalid: there is a name
	name string
	port uint16
}

func (a socksAddress) String() string {
	host := a.name
	if a.ip.IsValid() {
		host = a.ip.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(a.port)))
}

// readSOCKSAddress reads an address and its port, and not a byte more.
func readSOCKSAddress(r io.Reader) (a socksAddress, err error) {
	var kind [1]byte
	if _, err := io.ReadFull(r, kind[:]); err != nil {
		return a, err
	}
	switch kind[0] {
	case addressIPv4:
		var ip [4]byte
		_, err = io.ReadFull(r, ip[:])
		a.ip = netip.AddrFrom4(ip)
	case addressIPv6:
		var ip [16]byte
		_, err = io.ReadFull(r, ip[:])
		a.ip = netip.AddrFrom16(ip).Unmap()
	case addressName:
		a.name, err = readShort(r)
		if err == nil && a.name == "" {
			err = errSOCKSAddress
		}
		if ip, parsed := netip.ParseAddr(a.name); parsed == nil { // some clients send all as names
			a.ip, a.name = ip.Unmap().WithZone(""), ""
		}
	default:
		err = fmt.Errorf("%w: kind %d", errSOCKSAddress, kind[0])
	}
	if err != nil {
		return socksAddress{}, err
	}
	var port [2]byte
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return socksAddress{}, err
	}
	a.port = binary.BigEndian.Uint16(port[:])
	return a, nil
}

// appendSOCKSAddress appends an IP address with its port; an invalid one as 0.0.0.0.
func appendSOCKSAddress(b []byte, a netip.AddrPort) []byte {
	ip := a.Addr().Unmap()
	if !ip.IsValid() {
		ip = netip.IPv4Unspecified()
	}
	kind := byte(addressIPv4)
	if ip.Is6() {
		kind = addressIPv6
	}
	b = append(append(b, kind), ip.AsSlice()...)
	return binary.BigEndian.AppendUint16(b, a.Port())
}

func answerSOCKS(w io.Writer, r socksReply, bound netip.AddrPort) error {
	_, err := w.Write(appendSOCKSAddress([]byte{socksVersion, byte(r), 0}, bound))
	return err
}

func (p *Proxy) connect(c *proxyConn, to socksAddress) {
	out, err := p.dial(p.ctx, to.String())
	if err != nil {
		answerSOCKS(c, socksReplies[failureOf(err)], netip.AddrPort{})
		return
	}
	if err := answerSOCKS(c, replyOK, addrPort(out.LocalAddr())); err != nil {
		p.stack.reset(err, out)
		return
	}
	p.stack.carry(p.ctx, c, out)
}
