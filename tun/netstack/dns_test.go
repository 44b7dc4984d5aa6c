package netstack

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"
)

// serveDNS answers on b4, by UDP and TCP: "both." and "long." have addresses, of which "long." says so by TCP alone;
// "absent." does not exist; "broken." fails; before each answer by UDP comes one that is forged.
func serveDNS(t *testing.T, b *node) {
	t.Helper()
	answer := func(query []byte, tcp bool) []byte {
		var m dnsmessage.Message
		if err := m.Unpack(query); err != nil {
			t.Error(err)
			return nil
		}
		m.Response = true
		q := m.Questions[0]
		switch q.Name.String() {
		case "both.", "long.", "large.":
			m.Truncated = q.Name.String() == "long." && !tcp
			head := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type}
			alias := head
			alias.Type = dnsmessage.TypeCNAME
			m.Answers = []dnsmessage.Resource{{Header: alias, Body: &dnsmessage.CNAMEResource{CNAME: q.Name}}}
			if q.Name.String() == "large." { // more than 512 bytes, and not truncated
				text := head
				text.Type = dnsmessage.TypeTXT
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: text, Body: &dnsmessage.TXTResource{TXT: slices.Repeat([]string{strings.Repeat("x", 200)}, 3)}})
			}
			if q.Type == dnsmessage.TypeA {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: b4.As4()}})
			} else {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: b6.As16()}})
			}
		case "absent.":
			m.RCode = dnsmessage.RCodeNameError
		case "broken.":
			m.RCode = dnsmessage.RCodeServerFailure
		}
		packed, err := m.Pack()
		if err != nil {
			t.Error(err)
		}
		return packed
	}
	udp, err := b.ListenUDP(netip.AddrPortFrom(b4, 53))
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := b.ListenTCP(netip.AddrPortFrom(b4, 53))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{}, 2)
	go func() {
		defer func() { done <- struct{}{} }()
		buf := make([]byte, 512)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			reply := answer(buf[:n], false)
			forged := append([]byte{reply[0] ^ 1}, reply[1:]...)
			for _, r := range [][]byte{forged, {1}, reply} {
				if _, err := udp.WriteTo(r, from); err != nil {
					return
				}
			}
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			var size [2]byte
			if _, err := io.ReadFull(c, size[:]); err == nil {
				query := make([]byte, binary.BigEndian.Uint16(size[:]))
				_, _ = io.ReadFull(c, query) // answer tells
				reply := answer(query, true)
				_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)) // the client tells
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_, _ = udp.Close(), tcp.Close()
		<-done
		<-done
	})
}

func TestNames(t *testing.T) {
	a, b := newPair(t, b4)
	serveDNS(t, b)
	ctx := testContext(t)
	same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	for _, host := range []string{"both", "both.", "long", "large"} {
		got, err := a.LookupHost(ctx, host)
		if diff := cmp.Diff([]netip.Addr{b6, b4}, got, same); diff != "" || err != nil {
			t.Errorf("%s: %v %s", host, err, diff)
		}
	}
	for host, notFound := range map[string]bool{"absent": true, "broken": false, "": true, "empty": true} {
		_, err := a.LookupHost(ctx, host)
		var dnsError *net.DNSError
		if !errors.As(err, &dnsError) || dnsError.IsNotFound != notFound {
			t.Errorf("%q: got %v, want a DNS error, not found: %v", host, err, notFound)
		}
	}
	// The first address, IPv6, has no listener; the second has.
	l, err := b.ListenTCP(netip.AddrPortFrom(b4, 80))
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.DialContext(ctx, "tcp", "both:80")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.RemoteAddr().String(); got != "10.0.0.2:80" {
		t.Errorf("connected to %s", got)
	}
	if err := errors.Join(c.Close(), l.Close()); err != nil {
		t.Error(err)
	}
}

func FuzzParseAnswer(f *testing.F) {
	q := dnsmessage.Question{Name: dnsmessage.MustNewName("both."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	m := dnsmessage.Message{
		Header: dnsmessage.Header{ID: 7, Response: true}, Questions: []dnsmessage.Question{q},
		Answers: []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type}, Body: &dnsmessage.AResource{A: b4.As4()},
		}},
	}
	seed, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:len(seed)-3])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		addresses, err := parseAnswer(b, 7, q)
		if err != nil && addresses != nil {
			t.Errorf("both %v and %v", addresses, err)
		}
		for _, a := range addresses {
			if !a.IsValid() {
				t.Error("an invalid address")
			}
		}
		if err == nil && (len(b) < 12 || b[0] != 0 || b[1] != 7) {
			t.Error("an answer to another question")
		}
	})
}
