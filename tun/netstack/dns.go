package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// dnsTimeout is how long one server is given for one answer, and dnsRounds how often all are asked. Both are those
	// of resolv.conf(5), but for the timeout, of which 5 s make a program seem dead.
	dnsTimeout = 3 * time.Second
	dnsRounds  = 2
	// maxDatagram is more than the 512 bytes of an answer by UDP without extensions (RFC 1035 section 4.2.1), which not all servers heed.
	maxDatagram = 4096
)

var (
	errNoServers  = errors.New("the tunnel has no DNS server (DNS = ... in the configuration)")
	errNotOurs    = errors.New("not an answer to the question")
	errTruncated  = errors.New("answer is truncated")
	errNoSuchHost = errors.New("no such host")
)

// LookupHost returns the addresses of a host, those of IPv6 first, of the families that the stack has. An address is
// its own answer. The names of peers come first; then only the tunnel's servers are asked. Neither the hosts file nor the
// search domains of this machine count.
func (s *Stack) LookupHost(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap().WithZone("")}, nil
	}
	if s.peers != nil {
		if addresses := s.peers.PeerAddresses(strings.TrimSuffix(host, ".")); len(addresses) > 0 {
			return addresses, nil
		}
	}
	fail := func(err error) ([]netip.Addr, error) {
		return nil, &net.DNSError{Err: err.Error(), Name: host, IsNotFound: errors.Is(err, errNoSuchHost), IsTimeout: errors.Is(err, context.DeadlineExceeded), UnwrapErr: err}
	}
	name, err := dnsmessage.NewName(strings.TrimSuffix(host, ".") + ".")
	if err != nil || host == "" {
		return fail(errNoSuchHost)
	}
	if len(s.dns) == 0 {
		return fail(errNoServers)
	}
	type result struct {
		addresses []netip.Addr
		err       error
	}
	ask := func(kind dnsmessage.Type) <-chan result {
		c := make(chan result, 1)
		go func() {
			a, err := s.ask(ctx, dnsmessage.Question{Name: name, Type: kind, Class: dnsmessage.ClassINET})
			c <- result{a, err}
		}()
		return c
	}
	var asked []<-chan result
	if s.has6 {
		asked = append(asked, ask(dnsmessage.TypeAAAA))
	}
	if s.has4 {
		asked = append(asked, ask(dnsmessage.TypeA))
	}
	var all []netip.Addr
	var errs []error
	for _, c := range asked {
		r := <-c
		all = append(all, r.addresses...)
		if r.err != nil && !slices.ContainsFunc(errs, func(e error) bool { return e.Error() == r.err.Error() }) {
			errs = append(errs, r.err)
		}
	}
	if len(all) > 0 {
		return all, nil
	}
	if err := errors.Join(errs...); err != nil {
		return fail(err)
	}
	return fail(errNoSuchHost)
}

// ask asks the servers in turn until one answers. No address without an error is an answer too.
func (s *Stack) ask(ctx context.Context, q dnsmessage.Question) ([]netip.Addr, error) {
	var last error
	for range dnsRounds {
		for _, server := range s.dns {
			addresses, err := s.exchange(ctx, server, q)
			if err == nil || errors.Is(err, errNoSuchHost) {
				return addresses, err
			}
			last = fmt.Errorf("server %s: %w", server, err)
			if ctx.Err() != nil {
				return nil, last
			}
		}
		if !slices.ContainsFunc(s.dns, func(server netip.Addr) bool { return !s.down(server) }) {
			break // the peers of all servers are known to be down
		}
	}
	return nil, last
}

// exchange asks one server by UDP, and by TCP when the answer is too long for that.
func (s *Stack) exchange(ctx context.Context, server netip.Addr, q dnsmessage.Question) ([]netip.Addr, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	header := dnsmessage.Header{ID: uint16(rand.Uint32()), RecursionDesired: true}
	message := dnsmessage.Message{Header: header, Questions: []dnsmessage.Question{q}}
	query, err := message.Pack()
	if err != nil {
		return nil, err
	}
	addresses, err := s.exchangeOver(ctx, start, "udp", server, query, header.ID, q)
	if errors.Is(err, errTruncated) {
		return s.exchangeOver(ctx, start, "tcp", server, query, header.ID, q)
	}
	return addresses, err
}

func (s *Stack) exchangeOver(ctx context.Context, start time.Time, network string, server netip.Addr, query []byte, id uint16, q dnsmessage.Question) ([]netip.Addr, error) {
	c, err := s.dial(ctx, network, netip.AddrPortFrom(server, 53).String(), downAfter)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // wakes the reader
	defer func() {
		stop()
		_ = c.Close() // the answer is there or it is not
	}()
	if network == "tcp" {
		return exchangeStream(c, query, id, q)
	}
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, maxDatagram)
	for {
		n, err := c.Read(buf)
		if err != nil {
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				err = s.noAnswer(server, start)
			}
			return nil, err
		}
		addresses, err := parseAnswer(buf[:n], id, q)
		if !errors.Is(err, errNotOurs) { // anyone may send us a datagram
			return addresses, err
		}
	}
}

func exchangeStream(c net.Conn, query []byte, id uint16, q dnsmessage.Question) ([]netip.Addr, error) {
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, answer); err != nil {
		return nil, err
	}
	return parseAnswer(answer, id, q)
}

// parseAnswer takes the addresses out of the answer to a question. The resolver has followed aliases already, so
// addresses count whatever name they stand under.
func parseAnswer(b []byte, id uint16, q dnsmessage.Question) ([]netip.Addr, error) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || h.ID != id || !h.Response {
		return nil, errNotOurs
	}
	asked, err := p.AllQuestions()
	if err != nil || len(asked) != 1 || asked[0].Type != q.Type || asked[0].Class != q.Class ||
		!strings.EqualFold(asked[0].Name.String(), q.Name.String()) {
		return nil, errNotOurs
	}
	switch {
	case h.Truncated:
		return nil, errTruncated
	case h.RCode == dnsmessage.RCodeNameError:
		return nil, errNoSuchHost
	case h.RCode != dnsmessage.RCodeSuccess:
		return nil, fmt.Errorf("answer %s", h.RCode)
	}
	answers, err := p.AllAnswers()
	if err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	var addresses []netip.Addr
	for _, a := range answers {
		switch body := a.Body.(type) {
		case *dnsmessage.AResource:
			addresses = append(addresses, netip.AddrFrom4(body.A))
		case *dnsmessage.AAAAResource:
			addresses = append(addresses, netip.AddrFrom16(body.AAAA).Unmap())
		}
	}
	return addresses, nil
}
