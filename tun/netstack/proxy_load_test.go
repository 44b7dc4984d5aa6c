package netstack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// held is what of the process connections could keep.
type held struct{ goroutines, files int }

func holds(t *testing.T) held {
	t.Helper()
	h := held{goroutines: runtime.NumGoroutine()}
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil { // elsewhere the files are not counted
		h.files = len(entries)
	}
	return h
}

// newWire makes two stacks with a wire between them: connections by the thousand without WireGuard's work.
func newWire(t *testing.T) (a, b *Stack) { return newLossyWire(t, nil) }

// newLossyWire is newWire, and loses the packets for which lost returns true. It is called with those of one direction at a time.
func newLossyWire(t *testing.T, lost func(toB bool, packet []byte) bool) (a, b *Stack) {
	t.Helper()
	ends := make([]*Stack, 2)
	for n, address := range []netip.Addr{a4, b4} {
		s, err := New([]netip.Addr{address}, nil, 1420)
		if err != nil {
			t.Fatal(err)
		}
		ends[n] = s
	}
	var wires sync.WaitGroup
	for n, s := range ends {
		wires.Go(func() {
			from, to := s.Device(), ends[1-n].Device()
			bufs, sizes := make([][]byte, from.BatchSize()), make([]int, from.BatchSize())
			for i := range bufs {
				bufs[i] = make([]byte, maxMTU)
			}
			for {
				k, err := from.Read(bufs, sizes, 0)
				if err != nil {
					return
				}
				var packets [][]byte
				for i := range k {
					if p := bufs[i][:sizes[i]]; lost == nil || !lost(n == 0, p) {
						packets = append(packets, p)
					}
				}
				to.Write(packets, 0) // an error is that of the end
			}
		})
	}
	t.Cleanup(func() {
		_, _ = ends[0].Close(), ends[1].Close()
		wires.Wait()
	})
	return ends[0], ends[1]
}

// proxyRequests has a request for 10.0.0.2:80 and the answer up to the data, in bytes, for each kind of proxy.
var proxyRequests = map[string]struct {
	request string
	answer  int
}{
	"SOCKS5": {"\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x02\x00\x50", 2 + 10},
	"HTTP":   {"CONNECT 10.0.0.2:80 HTTP/1.1\r\nHost: bob\r\n\r\n", len("HTTP/1.1 200 Connection established\r\n\r\n")},
}

// dialProxy connects through a proxy to 10.0.0.2:80.
func dialProxy(kind string, p *Proxy) (net.Conn, error) {
	c, err := net.Dial("tcp", p.Addr().String())
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(30 * time.Second))
	r := proxyRequests[kind]
	answer := make([]byte, r.answer)
	if _, err = c.Write([]byte(r.request)); err == nil {
		_, err = io.ReadFull(c, answer)
	}
	if err != nil || kind == "SOCKS5" && answer[3] != 0 || kind == "HTTP" && !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) {
		c.(*net.TCPConn).CloseWrite()
		more, _ := io.ReadAll(io.LimitReader(c, 1<<10)) // the reason, in an answer of HTTP
		c.Close()
		return nil, fmt.Errorf("got %q, %w", append(answer, more...), err)
	}
	return c, nil
}

// swap sends a few bytes and gets them back.
func swap(c net.Conn) error {
	sent := []byte("a few bytes")
	got := make([]byte, len(sent))
	if _, err := c.Write(sent); err != nil {
		return err
	}
	_, err := io.ReadFull(c, got)
	if err == nil && !bytes.Equal(got, sent) {
		err = fmt.Errorf("got %q", got)
	}
	return err
}

// TestProxyLoad checks that many connections at once, and many more one after another, work and leave nothing behind.
func TestProxyLoad(t *testing.T) {
	const atOnce, inTurn = 1000, 10_000 // of both kinds of proxies together
	a, b := newWire(t)
	a.UsePeers(fakePeers{})
	serveEcho(t, b, 80)
	proxies := make(map[string]*Proxy)
	for kind, serve := range kinds {
		p, err := serve(a, ProxyOptions{Listen: loopback.String()})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		proxies[kind] = p
		c, err := dialProxy(kind, p) // so that all there is to start has been started
		if err != nil || swap(c) != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	idle := func() bool { return len(proxies["HTTP"].slots) <= 1 && len(proxies["SOCKS5"].slots) <= 1 }
	eventually(t, "the first connections end", idle)
	before := holds(t)

	var all sync.WaitGroup
	conns := make(chan net.Conn, atOnce)
	for kind, p := range proxies {
		for range atOnce / len(proxies) {
			all.Go(func() {
				c, err := dialProxy(kind, p)
				if err != nil {
					t.Error(kind, err)
					return
				}
				conns <- c
			})
		}
	}
	all.Wait()
	close(conns)
	for c := range conns { // all are open now
		all.Go(func() {
			defer c.Close()
			if err := swap(c); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	back := func() bool {
		h := holds(t)
		return h.files <= before.files && h.goroutines <= before.goroutines+5
	}
	eventually(t, "connections at once leave nothing behind", func() bool { return idle() && back() })

	for kind, p := range proxies {
		all.Go(func() {
			for range inTurn / len(proxies) {
				c, err := dialProxy(kind, p)
				if err == nil {
					err = swap(c)
					c.Close()
				}
				if err != nil {
					t.Error(kind, err)
					return
				}
			}
		})
	}
	all.Wait()
	eventually(t, "connections in turn leave nothing behind", func() bool { return idle() && back() })
}

// TestEndedConnectionsKeepNoBuffers checks what a connection that has ended takes until it is forgotten: not the buffers that it was carried with.
func TestEndedConnectionsKeepNoBuffers(t *testing.T) {
	const count, most = 500, carryBuffer // bytes for each; the endpoint itself takes a third of it
	a, b := newWire(t)
	a.UsePeers(fakePeers{})
	serveEcho(t, b, 80)
	p, err := a.ServeSOCKS5(ProxyOptions{Listen: loopback.String()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	heap := func() uint64 {
		runtime.GC()
		runtime.GC() // the first leaves what pools have
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for range count {
		c, err := dialProxy("SOCKS5", p)
		if err == nil {
			err = swap(c)
			c.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the connections end", func() bool { return len(p.slots) <= 1 })
	if after := heap(); after > before+count*most {
		t.Errorf("%d bytes for each of %d connections that have ended, want at most %d", (after-before)/count, count, most)
	}
}

// TestProxyStackClose checks that connections, listeners and associations end with the stack, without anybody closing proxy or forward.
func TestProxyStackClose(t *testing.T) {
	a, b := newPair(t)
	a.UsePeers(fakePeers{})
	serveEcho(t, b.Stack, 80)
	var addresses []string
	var open []net.Conn
	for kind, serve := range kinds {
		p, err := serve(a.Stack, ProxyOptions{Listen: loopback.String()})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		c, err := dialProxy(kind, p)
		if err != nil {
			t.Fatal(err)
		}
		addresses = append(addresses, p.Addr().String())
		open = append(open, c, dialTCP(t, p.Addr().String()))
		if kind == "SOCKS5" {
			association := greet(t, p, nil)
			association.Write(append([]byte{5, commandAssociate, 0}, addressBytes("0.0.0.0:0")...))
			if code, _ := readReply(t, association); code != replyOK {
				t.Fatalf("got reply %d", code)
			}
			open = append(open, association)
		}
	}
	f, err := a.Forward(Forward{Network: "tcp", Listen: loopback, Target: "10.0.0.2:80"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	addresses = append(addresses, f.open.(net.Listener).Addr().String())
	forwarded := dialTCP(t, addresses[len(addresses)-1])
	if err := swap(forwarded); err != nil {
		t.Fatal(err)
	}
	open = append(open, forwarded)
	a.Close()
	for n, c := range open {
		c.SetDeadline(time.Now().Add(20 * time.Second))
		_, err := io.ReadAll(c)
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("client %d: got %v, want a reset", n, err)
		}
	}
	for _, address := range addresses {
		eventually(t, address+" is closed", func() bool {
			c, err := net.Dial("tcp", address)
			if err == nil {
				c.Close()
			}
			return err != nil
		})
	}
}

// TestProxySlowClient checks that who says too slowly what it wants is sent away, and others meanwhile are not.
func TestProxySlowClient(t *testing.T) {
	for kind, serve := range kinds {
		p, _, b := newProxy(t, serve, ProxyOptions{greeting: 2 * time.Second})
		serveEcho(t, b.Stack, 80)
		slow := dialTCP(t, p.Addr().String())
		ended := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, slow)
			ended <- err
		}()
		request := proxyRequests[kind].request
		tick := time.NewTicker(20 * time.Millisecond)
		for i := 0; ; i = min(i+1, len(request)-2) { // never the last byte
			if _, err := slow.Write([]byte{request[i]}); err != nil {
				break
			}
			<-tick.C
		}
		tick.Stop()
		if err := <-ended; errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the slow client is still there", kind)
		}
		c, err := dialProxy(kind, p)
		if err != nil || swap(c) != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		c.Close()
	}
}

// TestProxyBackPressure checks that a client is held up by a server that doesn't read, and that nothing is lost once it does.
func TestProxyBackPressure(t *testing.T) {
	for kind, serve := range kinds {
		p, _, b := newProxy(t, serve, ProxyOptions{})
		l, err := b.ListenTCP(netip.AddrPortFrom(b4, 80))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := dialProxy(kind, p)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		const most = 64 << 20 // more than all buffers on the way together
		c.SetWriteDeadline(time.Now().Add(time.Second))
		held, err := c.Write(make([]byte, most))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%s: wrote %d bytes that nobody reads: %v", kind, held, err)
		}
		c.(*net.TCPConn).CloseWrite()
		server.SetReadDeadline(time.Now().Add(20 * time.Second))
		if n, err := io.Copy(io.Discard, server); err != nil || n != int64(held) {
			t.Errorf("%s: got %d of %d bytes, %v", kind, n, held, err)
		}
	}
}

// TestHalfClosedSilence checks that a connection of which one direction has ended ends when the other is silent, and no sooner.
func TestHalfClosedSilence(t *testing.T) {
	s, err := New([]netip.Addr{a4}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	pair := func() (near, far *net.TCPConn) {
		l := outside(t)
		near = dialTCP(t, l.Addr().String())
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return near, c.(*net.TCPConn)
	}
	client, in := pair()
	server, out := pair()
	carried := make(chan struct{})
	go func() {
		defer close(carried)
		s.carryWith(t.Context(), in, out, carryBuffer, 2*time.Second)
	}()
	if _, err := client.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	client.CloseWrite()
	if got, err := io.ReadAll(server); err != nil || string(got) != "question" {
		t.Fatalf("got %q, %v", got, err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 25 { // for longer than the silence
		<-tick.C
		if _, err := server.Write([]byte(".")); err != nil {
			t.Fatal(err)
		}
	}
	got, err := io.ReadAll(client)
	if string(got) != strings.Repeat(".", 25) || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %q, %v, want all and then a reset", got, err)
	}
	<-carried
}

// TestAssociationLimit checks that one more association than there may be is refused, and that they come back.
func TestAssociationLimit(t *testing.T) {
	p, _, _ := newProxy(t, (*Stack).ServeSOCKS5, ProxyOptions{})
	request := append([]byte{5, commandAssociate, 0}, addressBytes("0.0.0.0:0")...)
	for range maxAssociations {
		c := greet(t, p, nil)
		c.Write(request)
		if code, _ := readReply(t, c); code != replyOK {
			t.Fatalf("got reply %d", code)
		}
		defer c.Close()
	}
	c := greet(t, p, nil)
	c.Write(request)
	if code, _ := readReply(t, c); code != replyFailure {
		t.Errorf("one too many: got reply %d, want %d", code, replyFailure)
	}
	p.Close()
	if n := len(p.associations); n != 0 {
		t.Errorf("got %d associations after Close", n)
	}
}

// TestHTTPProxyKeeps checks that a plain request arrives as the client has made it.
func TestHTTPProxyKeeps(t *testing.T) {
	p, _, b := newProxy(t, (*Stack).ServeHTTPProxy, ProxyOptions{})
	l, err := b.ListenTCP(netip.AddrPortFrom(b4, 80))
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan *http.Request, 1)
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r })}
	go server.Serve(l)
	defer server.Close()
	r, err := http.NewRequest(http.MethodGet, "http://10.0.0.2/a%2fb?x=1;y=%zz&&z", nil)
	if err != nil {
		t.Fatal(err)
	}
	kept := map[string]string{"Forwarded": "for=192.0.2.1", "X-Forwarded-For": "192.0.2.1", "X-Forwarded-Host": "example.com", "X-Forwarded-Proto": "https"}
	for name, value := range kept {
		r.Header.Set(name, value)
	}
	answer, err := client(p, nil).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	got := <-seen
	if got.RequestURI != "/a%2fb?x=1;y=%zz&&z" {
		t.Errorf("got %q", got.RequestURI)
	}
	for name, value := range kept {
		if v := got.Header[name]; len(v) != 1 || v[0] != value {
			t.Errorf("%s: got %q, want %q", name, v, value)
		}
	}
}

// TestDialPatience checks who is waited for: a peer that has to be woken for as long as there is time, one that is down not.
func TestDialPatience(t *testing.T) {
	a, _ := newPair(t)
	a.UsePeers(fakePeers{})
	for _, c := range []struct {
		name, address string
		dial          func(context.Context, string, string) (net.Conn, error)
		limit         time.Duration // of the context
		least         time.Duration // that is waited for, which is counted from a moment after the limit; what comes on top is this machine's
		why           string
	}{
		{"down", "10.0.0.3:80", a.DialPromptly, patience, downAfter, "carol: connecting: no offer"},
		{"down, two addresses", "carol:80", a.DialPromptly, patience, downAfter, "carol: connecting: no offer"},
		{"down, patiently", "10.0.0.3:80", a.DialContext, downAfter + 2*time.Second, downAfter + time.Second, "carol: connecting: no offer"},
		{"to be woken", "10.0.0.4:80", a.DialPromptly, downAfter + 2*time.Second, downAfter + time.Second, "dave: idle"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), c.limit)
			defer cancel()
			conn, err := c.dial(ctx, "tcp", c.address)
			if err == nil {
				conn.Close()
			}
			var no *noAnswer
			if !errors.As(err, &no) || no.after < c.least || no.after >= patience || !strings.HasSuffix(err.Error(), no.Error()) ||
				strings.Count(err.Error(), no.Error()) != 1 || fmt.Sprint(no.why) != c.why || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want no answer within %v (%s)", err, c.least, c.why)
			}
		})
	}
}

// TestLookupServerDown checks that a name is not waited for when the peer of the DNS server is down.
func TestLookupServerDown(t *testing.T) {
	a, _ := newPair(t, silent)
	a.UsePeers(fakePeers{})
	_, err := a.LookupHost(testContext(t), "www.example.com")
	var no *noAnswer
	if !errors.As(err, &no) || no.after < downAfter || err.Error() != "lookup www.example.com: server 10.0.0.3: "+no.Error() ||
		fmt.Sprint(no.why) != "carol: connecting: no offer" {
		t.Errorf("got %v, want no answer from carol", err)
	}
	if failureOf(err) != failedTimeout {
		t.Errorf("got failure %d, want %d", failureOf(err), failedTimeout)
	}
}

// TestHTTPProxyReuse checks a request on a connection that was kept from an earlier one: a server that is gone is not waited for, one that reads
// nothing for as long is.
func TestHTTPProxyReuse(t *testing.T) {
	const limit = time.Second
	p, _, b := newProxy(t, (*Stack).ServeHTTPProxy, ProxyOptions{request: limit})
	l, err := b.ListenTCP(netip.AddrPortFrom(b4, 80))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			<-time.After(3 * limit)
		}
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
	})}
	go server.Serve(l)
	defer server.Close()
	c := client(p, nil)
	for _, request := range []struct {
		method, body string
		status       int
		answer       string
	}{
		{http.MethodGet, "", http.StatusOK, "0 <nil>"},
		{http.MethodPost, strings.Repeat("x", 2*maxTCPBuffer), http.StatusOK, fmt.Sprint(2*maxTCPBuffer, " <nil>")}, // more than all buffers have room for
		{http.MethodGet, "", http.StatusGatewayTimeout, "wice-go: 10.0.0.2: no answer within "},
	} {
		if request.status != http.StatusOK {
			if err := b.wg.Down(); err != nil {
				t.Fatal(err)
			}
		}
		r, err := http.NewRequestWithContext(testContext(t), request.method, "http://10.0.0.2/", strings.NewReader(request.body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != request.status || !strings.HasPrefix(string(text), request.answer) {
			t.Errorf("%s: got %s %q, %v; want %d %q", request.method, answer.Status, text, err, request.status, request.answer)
		}
	}
}

// TestHTTPProxyWatch checks of which connections it is said that nothing comes: not of one on which something came before anybody looked, and not of
// one that has ended, since the request may have got another one.
func TestHTTPProxyWatch(t *testing.T) {
	p, a, b := newProxy(t, (*Stack).ServeHTTPProxy, ProxyOptions{})
	h := &httpProxy{Proxy: p}
	l, err := b.ListenTCP(netip.AddrPortFrom(b4, 80))
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.DialContext(testContext(t), "tcp", "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	watch := func(what string, before uint64, want bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(testContext(t), time.Millisecond)
		defer cancel()
		gone := false
		h.watch(ctx, c, before, func(error) { gone = true })
		if gone != want {
			t.Errorf("%s: said to be gone: got %t, want %t", what, gone, want)
		}
	}
	before := a.received(c)
	if _, err := io.WriteString(far, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	watch("something came", before, false)
	watch("silence", a.received(c), true)
	b.reset(nil, far)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	watch("ended", a.received(c), false)
}
