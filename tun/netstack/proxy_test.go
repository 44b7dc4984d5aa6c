package netstack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/proxy"
)

// fakePeers has the peers bob, with the addresses of the other end, carol and dave.
type fakePeers struct{}

func (fakePeers) PeerAddresses(name string) []netip.Addr {
	switch strings.ToLower(name) {
	case "bob":
		return []netip.Addr{b4, b6}
	case "carol":
		return []netip.Addr{silent, silent6}
	}
	return nil
}

func (fakePeers) Reason(a netip.Addr) (error, bool) {
	switch a {
	case silent, silent6:
		return errors.New("carol: connecting: no offer"), true
	case asleep:
		return errors.New("dave: idle"), false
	}
	return nil, false
}

func (fakePeers) Routed(a netip.Addr) bool {
	return slices.Contains([]netip.Addr{b4, b6, silent, silent6, asleep}, a)
}

// silent and silent6 are addresses of a peer that is down, and asleep that of one that is not looked for before there are packets. None answers.
var (
	silent, silent6 = netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("fd00::3")
	asleep          = netip.MustParseAddr("10.0.0.4")
)

// newProxy makes a pair of stacks and a proxy into the first.
func newProxy(t *testing.T, serve func(*Stack, ProxyOptions) (*Proxy, error), o ProxyOptions) (p *Proxy, a, b *node) {
	t.Helper()
	a, b = newPair(t)
	a.UsePeers(fakePeers{})
	o.Listen = loopback.String()
	p, err := serve(a.Stack, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, a, b
}

// serveEcho sends back what comes to a port of the stack, by TCP until the end and by UDP.
func serveEcho(t *testing.T, s *Stack, port uint16) {
	t.Helper()
	l, err := s.ListenTCP(netip.AddrPortFrom(netip.IPv6Unspecified(), port))
	if err != nil {
		t.Fatal(err)
	}
	udp, err := s.ListenUDP(netip.AddrPortFrom(netip.IPv6Unspecified(), port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = l.Close(), udp.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := io.Copy(c, c); err == nil {
					c.(interface{ CloseWrite() error }).CloseWrite()
				}
			}()
		}
	}()
	go func() {
		buf := make([]byte, maxUDP)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			udp.WriteTo(buf[:n], from)
		}
	}()
}

// socksDial connects through a SOCKS 5 proxy with the client of golang.org/x/net.
func socksDial(ctx context.Context, p *Proxy, auth *proxy.Auth, address string) (net.Conn, error) {
	d, err := proxy.SOCKS5("tcp", p.Addr().String(), auth, nil)
	if err != nil {
		return nil, err
	}
	return d.(proxy.ContextDialer).DialContext(ctx, "tcp", address)
}

// echoes sends data, says that this is all, and reads it back.
func echoes(t *testing.T, c net.Conn) {
	t.Helper()
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		c.Write(data) // the reader tells
		c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d of %d bytes back, %v", len(got), len(data), err)
	}
}

func TestSOCKSConnect(t *testing.T) {
	p, _, b := newProxy(t, (*Stack).ServeSOCKS5, ProxyOptions{})
	serveEcho(t, b.Stack, 80)
	ctx := testContext(t)
	for _, address := range []string{"10.0.0.2:80", "[fd00::2]:80", "bob:80", "BOB.:80"} {
		c := greet(t, p, nil)
		c.Write(append([]byte{5, commandConnect, 0}, addressBytes(address)...))
		if code, bound := readReply(t, c); code != replyOK || !bound.IsValid() || bound.Port() == 0 {
			t.Errorf("%s: got reply %d, bound to %s", address, code, bound)
			continue
		}
		echoes(t, c)
	}
	for address, want := range map[string]string{
		"10.0.0.2:81": "refused", "10.9.9.9:80": "network unreachable", "[fd00::9]:80": "network unreachable", "eve:80": "host unreachable",
	} {
		start := time.Now()
		c, err := socksDial(ctx, p, nil, address)
		if err == nil {
			c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", address, err, want)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s: the answer took %v", address, took)
		}
	}
	// Where there is nobody, look-up and connection end together.
	c, err := socksDial(ctx, p, nil, netip.AddrPortFrom(silent, 80).String())
	if err == nil {
		c.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "TTL expired") {
		t.Errorf("nobody there: got %v, want a timeout", err)
	}
}

// greet connects to a SOCKS 5 proxy and goes through its greeting, with a password if there is one.
func greet(t *testing.T, p *Proxy, auth *proxy.Auth) *net.TCPConn {
	t.Helper()
	c := dialTCP(t, p.Addr().String())
	method := byte(methodNone)
	if auth != nil {
		method = methodPassword
	}
	c.Write([]byte{5, 1, method})
	var answer [2]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil || answer != [2]byte{5, method} {
		t.Fatalf("got %v, %v", answer, err)
	}
	return c
}

// addressBytes is an address as SOCKS has it.
func addressBytes(address string) []byte {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		panic(err)
	}
	var port uint16
	fmt.Sscan(portText, &port)
	if ip, err := netip.ParseAddr(host); err == nil {
		return appendSOCKSAddress(nil, netip.AddrPortFrom(ip, port))
	}
	return binary.BigEndian.AppendUint16(append([]byte{addressName, byte(len(host))}, host...), port)
}

func readReply(t *testing.T, c net.Conn) (socksReply, netip.AddrPort) {
	t.Helper()
	var head [3]byte
	if _, err := io.ReadFull(c, head[:]); err != nil || head[0] != 5 {
		t.Fatalf("reply: got %v, %v", head, err)
	}
	bound, err := readSOCKSAddress(c)
	if err != nil {
		t.Fatal(err)
	}
	return socksReply(head[1]), netip.AddrPortFrom(bound.ip, bound.port)
}

func TestSOCKSUDP(t *testing.T) {
	p, _, b := newProxy(t, (*Stack).ServeSOCKS5, ProxyOptions{})
	serveEcho(t, b.Stack, 53)
	control := greet(t, p, nil)
	control.Write(append([]byte{5, commandAssociate, 0}, addressBytes("0.0.0.0:0")...))
	code, bound := readReply(t, control)
	if code != replyOK || bound.Addr() != netip.MustParseAddr("127.0.0.1") {
		t.Fatalf("got reply %d, bound to %s", code, bound)
	}
	dial := func() *net.UDPConn {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(bound))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	client, stranger := dial(), dial()
	buf := make([]byte, maxUDP)
	for _, size := range []int{1, 1200, 4000} {
		data := bytes.Repeat([]byte{7}, size)
		for address, from := range map[string]netip.Addr{"10.0.0.2:53": b4, "[fd00::2]:53": b6, "bob:53": b4, "[::ffff:10.0.0.2]:53": b4} {
			// All that is to be dropped comes first: a fragment, half a header, addresses that lead nowhere, a name that nobody has.
			for _, bad := range [][]byte{
				append([]byte{0, 0, 1}, addressBytes(address)...), {0}, {0, 0, 0, 9}, append([]byte{0, 0, 0}, addressBytes("10.9.9.9:53")...),
				append([]byte{0, 0, 0}, addressBytes("eve:53")...), append([]byte{0, 0, 0}, addressBytes("10.0.0.2:0")...),
			} {
				client.Write(bad)
			}
			client.Write(append(append([]byte{0, 0, 0}, addressBytes(address)...), data...))
			stranger.Write(append(append([]byte{0, 0, 0}, addressBytes(address)...), "stranger"...))
			client.SetReadDeadline(time.Now().Add(patience))
			n, err := client.Read(buf)
			if err != nil {
				t.Fatalf("%s: %v", address, err)
			}
			to, got, err := parseSOCKSDatagram(buf[:n])
			if err != nil || to.ip != from || to.port != 53 || !bytes.Equal(got, data) {
				t.Errorf("%s: got %d bytes from %v, %v", address, len(got), to, err)
			}
		}
	}
	// With the connection the association ends.
	control.Close()
	rebound := func() bool {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(bound))
		if err != nil {
			return false
		}
		c.Close()
		return true
	}
	eventually(t, "the association ends with its connection", rebound)
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !so(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func TestSOCKSPassword(t *testing.T) {
	p, _, b := newProxy(t, (*Stack).ServeSOCKS5, ProxyOptions{User: "alice", Password: "s3:cr@t"})
	serveEcho(t, b.Stack, 80)
	ctx := testContext(t)
	for _, c := range []struct {
		auth *proxy.Auth
		ok   bool
	}{
		{nil, false}, {&proxy.Auth{User: "alice", Password: "s3:cr@t"}, true}, {&proxy.Auth{User: "alice", Password: "wrong"}, false},
		{&proxy.Auth{User: "eve", Password: "s3:cr@t"}, false},
	} {
		conn, err := socksDial(ctx, p, c.auth, "10.0.0.2:80")
		if err == nil {
			conn.Close()
		}
		if (err == nil) != c.ok {
			t.Errorf("%v: got %v", c.auth, err)
		}
	}
}

// client is a program that uses an HTTP proxy.
func client(p *Proxy, user *url.Userinfo) *http.Client {
	at := &url.URL{Scheme: "http", Host: p.Addr().String(), User: user}
	return &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(at), DisableKeepAlives: true}, Timeout: 20 * time.Second}
}

func TestHTTPProxy(t *testing.T) {
	p, _, b := newProxy(t, (*Stack).ServeHTTPProxy, ProxyOptions{User: "alice", Password: "s3:cr@t"})
	l, err := b.ListenTCP(netip.AddrPortFrom(netip.IPv6Unspecified(), 80))
	if err != nil {
		t.Fatal(err)
	}
	headers := make(chan http.Header, 1)
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers <- r.Header.Clone()
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.Host, r.URL, body)
	})}}
	server.Start()
	defer server.Close()
	alice := client(p, url.UserPassword("alice", "s3:cr@t"))
	for _, host := range []string{"bob", "10.0.0.2", "[fd00::2]"} {
		r, err := http.NewRequest(http.MethodPost, "http://"+host+"/path?q=1", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Connection", "X-Private")
		r.Header.Set("X-Private", "1")
		r.Header.Set("X-Kept", "1")
		answer, err := alice.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if want := "POST " + host + " /path?q=1 body"; answer.StatusCode != http.StatusOK || string(body) != want {
			t.Fatalf("%s: got %d %q, want %q", host, answer.StatusCode, body, want)
		}
		seen := <-headers
		if answer.Header.Get("X-Hop") != "" || seen.Get("X-Private") != "" || seen.Get("Proxy-Authorization") != "" || seen.Get("X-Forwarded-For") != "" || seen.Get("X-Kept") == "" {
			t.Errorf("%s: got request header %v, answer %v", host, seen, answer.Header)
		}
	}
	for _, c := range []struct {
		url    string
		user   *url.Userinfo
		status int
		body   string
	}{
		{"http://10.9.9.9/", url.UserPassword("alice", "s3:cr@t"), 403, "no peer has the address in its AllowedIPs"},
		{"http://10.0.0.2:81/", url.UserPassword("alice", "s3:cr@t"), 502, "connection refused"},
		{"http://eve/", url.UserPassword("alice", "s3:cr@t"), 502, "lookup eve"},
		{"http://10.0.0.3/", url.UserPassword("alice", "s3:cr@t"), 504, "s (carol: connecting: no offer)"},
		{"http://bob/", nil, 407, "user or password"},
		{"http://bob/", url.UserPassword("alice", "wrong"), 407, "user or password"},
	} {
		answer, err := client(p, c.user).Get(c.url)
		if err != nil {
			t.Errorf("%s: %v", c.url, err)
			continue
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != c.status || !strings.Contains(string(body), c.body) || bytes.Count(body, []byte("\n")) != 1 {
			t.Errorf("%s: got %d %q, want %d %q", c.url, answer.StatusCode, body, c.status, c.body)
		}
	}
}

func TestHTTPConnect(t *testing.T) {
	p, _, b := newProxy(t, (*Stack).ServeHTTPProxy, ProxyOptions{})
	serveEcho(t, b.Stack, 80)
	for request, want := range map[string]string{
		"CONNECT 10.0.0.2:80 HTTP/1.1\r\nHost: 10.0.0.2:80\r\n\r\n": "HTTP/1.1 200 ",
		"CONNECT bob:80 HTTP/1.1\r\nHost: bob:80\r\n\r\n":           "HTTP/1.1 200 ",
		"CONNECT bob:81 HTTP/1.1\r\nHost: bob:81\r\n\r\n":           "HTTP/1.1 502 ",
		"CONNECT 10.9.9.9:80 HTTP/1.1\r\nHost: 10.9.9.9:80\r\n\r\n": "HTTP/1.1 403 ",
		"CONNECT bob HTTP/1.1\r\nHost: bob\r\n\r\n":                 "HTTP/1.1 400 ",
		"GET / HTTP/1.1\r\nHost: bob\r\n\r\n":                       "HTTP/1.1 400 ",
		"GET https://bob/ HTTP/1.1\r\nHost: bob\r\n\r\n":            "HTTP/1.1 501 ",
		"OPTIONS * HTTP/1.1\r\nHost: bob\r\n\r\n":                   "HTTP/1.1 400 ",
	} {
		c := dialTCP(t, p.Addr().String())
		early := ""
		if strings.HasSuffix(want, "200 ") {
			early = "early"
		}
		c.Write([]byte(request + early))
		var head []byte
		for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
			var one [1]byte
			if _, err := io.ReadFull(c, one[:]); err != nil {
				t.Fatalf("%q: %q, %v", request, head, err)
			}
			head = append(head, one[0])
		}
		if !strings.HasPrefix(string(head), want) {
			t.Errorf("%q: got %q, want %q", request, head, want)
		}
		if early != "" {
			got := make([]byte, len(early))
			if _, err := io.ReadFull(c, got); err != nil || string(got) != early {
				t.Errorf("%q: got %q, %v, want what was sent early", request, got, err)
			}
			echoes(t, c)
		}
		c.Close()
	}
}

var kinds = map[string]func(*Stack, ProxyOptions) (*Proxy, error){"SOCKS5": (*Stack).ServeSOCKS5, "HTTP": (*Stack).ServeHTTPProxy}

// TestProxyGarbage checks that what is no request is ended, and that nobody else notices.
func TestProxyGarbage(t *testing.T) {
	garbage := bytes.Repeat([]byte{5, 255, 0, 'G', 13, 10}, 1<<20/6)
	for name, serve := range kinds {
		p, _, _ := newProxy(t, serve, ProxyOptions{})
		for _, start := range []string{"", "G", "\x05\x01\x00\x05\x01\x00\x09", "\x05\x01\x07", "\x04\x01", "GET http://bob/ HTTP/1.1\r\nX: "} {
			c := dialTCP(t, p.Addr().String())
			go func() {
				c.Write([]byte(start))
				c.Write(garbage)
			}()
			got, err := io.ReadAll(io.LimitReader(c, 1<<16))
			var late net.Error
			if errors.As(err, &late) && late.Timeout() || len(got) > 1<<12 {
				t.Errorf("%s, %q: got %d bytes, %v", name, start, len(got), err)
			}
			c.Close()
		}
	}
}

// TestSOCKSOtherProtocols checks that clients of another protocol are told so: an answer comes, and then the end, not a reset.
func TestSOCKSOtherProtocols(t *testing.T) {
	p, _, _ := newProxy(t, (*Stack).ServeSOCKS5, ProxyOptions{})
	for request, want := range map[string]string{
		"\x04\x01\x00\x50\x0a\x00\x00\x02user\x00":      socks4Refusal,
		"CONNECT bob:80 HTTP/1.1\r\nHost: bob\r\n\r\n":  httpRefusal,
		"GET http://bob/ HTTP/1.1\r\nHost: bob\r\n\r\n": httpRefusal,
	} {
		c := dialTCP(t, p.Addr().String())
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != want {
			t.Errorf("%q: got %q, %v, want %q", request, got, err, want)
		}
		c.Close()
	}
}

// TestProxyClose checks that Close ends clients in every state.
func TestProxyClose(t *testing.T) {
	for name, serve := range kinds {
		p, _, b := newProxy(t, serve, ProxyOptions{})
		serveEcho(t, b.Stack, 80)
		var open []net.Conn
		states := []string{"", "\x05", "\x05\x01\x00" + string(append([]byte{5, commandConnect, 0}, addressBytes("10.0.0.3:80")...)),
			"\x05\x01\x00" + string(append([]byte{5, commandConnect, 0}, addressBytes("10.0.0.2:80")...)),
			"\x05\x01\x00" + string(append([]byte{5, commandAssociate, 0}, addressBytes("0.0.0.0:0")...))}
		if name == "HTTP" {
			states = []string{"", "GET", "CONNECT 10.0.0.3:80 HTTP/1.1\r\n\r\n", "CONNECT 10.0.0.2:80 HTTP/1.1\r\nHost: bob\r\n\r\n", "GET http://10.0.0.3/ HTTP/1.1\r\nHost: bob\r\n\r\n"}
		}
		for _, sent := range states {
			c := dialTCP(t, p.Addr().String())
			c.Write([]byte(sent))
			open = append(open, c)
		}
		c := open[3] // connected, which it is told
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := p.Close(); err != nil || p.Close() != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s: Close took %v", name, took)
		}
		for n, c := range open {
			_, err := io.ReadAll(c)
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				t.Errorf("%s: client %d is still there", name, n)
			}
		}
		if _, err := net.Dial("tcp", p.Addr().String()); err == nil {
			t.Errorf("%s: the port is still open", name)
		}
	}
}

// TestProxySlots checks that clients beyond the limit wait, and that slots come back.
func TestProxySlots(t *testing.T) {
	a, b := newPair(t)
	a.UsePeers(fakePeers{})
	serveEcho(t, b.Stack, 80)
	p, err := a.ServeSOCKS5(ProxyOptions{Listen: loopback.String()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx := testContext(t)
	for range 3 {
		var all []net.Conn
		for range 100 {
			c, err := socksDial(ctx, p, nil, "10.0.0.2:80")
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
		}
		if n := len(p.slots); n < 100 {
			t.Errorf("got %d slots in use, want at least 100", n)
		}
		for _, c := range all {
			c.Close()
		}
	}
	eventually(t, "all slots come back but that of accept", func() bool { return len(p.slots) <= 1 })
}

func TestProxyPortTaken(t *testing.T) {
	s, err := New([]netip.Addr{a4}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := outside(t)
	for name, serve := range kinds {
		if p, err := serve(s, ProxyOptions{Listen: l.Addr().String()}); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
			t.Errorf("%s: got %v, %v", name, p, err)
		}
	}
}

// stream is a client that has said all that it will say.
type stream struct {
	io.Reader
	sent []byte
}

func (s *stream) Write(b []byte) (int, error) {
	s.sent = append(s.sent, b...)
	return len(b), nil
}

func FuzzGreet(f *testing.F) {
	request := append([]byte{5, commandConnect, 0}, addressBytes("bob:80")...)
	f.Add(append([]byte{5, 1, 0}, request...), false)
	f.Add(append([]byte{5, 2, 0, 2, 1, 1, 'u', 1, 'p'}, request...), true)
	f.Add([]byte{5, 255}, false)
	f.Fuzz(func(t *testing.T, b []byte, secret bool) {
		p := &Proxy{}
		if secret {
			p.opts = ProxyOptions{User: "u", Password: "p"}
		}
		c := &stream{Reader: bytes.NewReader(b)}
		_, to, err := p.greet(c)
		if err != nil {
			return
		}
		if to.ip.IsValid() == (to.name != "") {
			t.Errorf("got the address %+v", to)
		}
		want := []byte{5, 0}
		if secret {
			want = []byte{5, 2, 1, 0}
		}
		if !bytes.Equal(c.sent, want) {
			t.Errorf("welcome with %v, want %v", c.sent, want)
		}
	})
}

func FuzzParseSOCKSDatagram(f *testing.F) {
	f.Add(append([]byte{0, 0, 0}, append(addressBytes("10.0.0.2:53"), "data"...)...))
	f.Add(append([]byte{0, 0, 0}, addressBytes("[fd00::2]:53")...))
	f.Add(append([]byte{0, 0, 0}, addressBytes("bob:53")...))
	f.Fuzz(func(t *testing.T, b []byte) {
		to, data, err := parseSOCKSDatagram(b)
		if err != nil {
			return
		}
		if !bytes.HasSuffix(b, data) || to.ip.IsValid() == (to.name != "") {
			t.Errorf("got %+v, %d of %d bytes", to, len(data), len(b))
		}
		if to.ip.IsValid() && b[3] != addressName && !to.ip.Is4In6() {
			again := append(appendSOCKSAddress(slices.Clone(b[:3]), netip.AddrPortFrom(to.ip, to.port)), data...)
			if to2, data2, err := parseSOCKSDatagram(again); err != nil || to2 != to || !bytes.Equal(data, data2) {
				t.Errorf("got %+v, want %+v: %v", to2, to, err)
			}
		}
	})
}

// TestHTTPProxyAnswers checks what a client is told by servers that say little: nothing that they have not said.
func TestHTTPProxyAnswers(t *testing.T) {
	p, _, b := newProxy(t, (*Stack).ServeHTTPProxy, ProxyOptions{})
	l, err := b.ListenTCP(netip.AddrPortFrom(b4, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct {
		answer, body string
		err          error
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n<html>.", "<html>.", nil},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n9\r\nhe", "hello", syscall.ECONNRESET},
	} {
		client, err := net.Dial("tcp", p.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := io.WriteString(client, "GET http://10.0.0.2/ HTTP/1.0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := http.ReadRequest(bufio.NewReader(server)); err != nil { // an answer that comes before is to no request
			t.Fatal(err)
		}
		if _, err = io.WriteString(server, c.answer); err != nil {
			t.Fatal(err)
		}
		server.Close()
		answer, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		if !strings.HasPrefix(string(body), c.body) || !errors.Is(err, c.err) {
			t.Errorf("%q: got %q, %v; want %q, %v", c.answer, body, err, c.body, c.err)
		}
		if kind, ok := answer.Header["Content-Type"]; ok {
			t.Errorf("%q: got the content type %q", c.answer, kind)
		}
	}
}
