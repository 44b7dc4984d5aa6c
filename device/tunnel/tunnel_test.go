package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/inproc"
	"github.com/wice-go/wice-go/signal/rendezvous"
	"github.com/wice-go/wice-go/test/program"
	"github.com/wice-go/wice-go/tun/netstack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testPatience is for what takes a fraction of a second on an idle machine.
const testPatience = 20 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testPatience)
	t.Cleanup(cancel)
	return ctx
}

// testOptions are for a tunnel with signaling over the bus.
func testOptions(t *testing.T, bus *inproc.Bus, private key.Private, address, more string) Options {
	t.Helper()
	text := fmt.Sprintf("[Interface]\nPrivateKey = %s\nAddress = %s\n#!wice Signaling = inproc\n%s", private.Base64(), address, more)
	cfg, err := config.Parse("", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Config:          cfg,
		Backends:        map[string]signal.Factory{inproc.Name: bus.New},
		IncludeLoopback: true,
		Logger:          slog.New(slog.DiscardHandler),
	}
}

func openTest(t *testing.T, o Options) *Tunnel {
	t.Helper()
	tunnel, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tunnel.Close() })
	return tunnel
}

func peerSection(k key.Private, name string, allowed ...string) string {
	return fmt.Sprintf("[Peer]\n#!wice Name = %s\nPublicKey = %s\nAllowedIPs = %s\n", name, k.Public(), strings.Join(allowed, ","))
}

// openPair joins two tunnels, alice with 10.7.0.1 and fd07::1, bob with 10.7.0.2 and fd07::2. The lines are of [Interface] of both.
func openPair(t *testing.T, lines string) (a, b *Tunnel) {
	t.Helper()
	bus := new(inproc.Bus)
	ka, kb := key.NewPrivate(), key.NewPrivate()
	a = openTest(t, testOptions(t, bus, ka, "10.7.0.1/24, fd07::1/64", lines+peerSection(kb, "bob", "10.7.0.2/32", "fd07::2/128")))
	b = openTest(t, testOptions(t, bus, kb, "10.7.0.2/24, fd07::2/64", lines+peerSection(ka, "alice", "10.7.0.1/32", "fd07::1/128")))
	ctx := testContext(t)
	for _, tunnel := range []*Tunnel{a, b} {
		if err := tunnel.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return a, b
}

// echo answers each connection with what it says, half-closed, until the listener is closed.
func echo(t *testing.T, l net.Listener) {
	t.Helper()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
}

func listenTest(t *testing.T, tunnel *Tunnel, address string) net.Listener {
	t.Helper()
	l, err := tunnel.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestTCPBothWays(t *testing.T) {
	a, b := openPair(t, "")
	echo(t, listenTest(t, a, ":7"))
	echo(t, listenTest(t, b, "[fd07::2]:7"))
	data := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	for _, c := range []struct {
		from    *Tunnel
		address string
	}{{a, "bob:7"}, {a, "[fd07::2]:7"}, {b, "alice:7"}, {b, "10.7.0.1:7"}, {b, "[fd07::1]:7"}} {
		conn, err := c.from.DialContext(testContext(t), "tcp", c.address)
		if err != nil {
			t.Fatal(err)
		}
		sent := make(chan error, 1)
		go func() {
			_, err := conn.Write(data)
			sent <- errors.Join(err, conn.(interface{ CloseWrite() error }).CloseWrite())
		}()
		got, err := io.ReadAll(conn) // ends because the echo saw our end, while this half stayed open
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: got %d bytes, %v; want the %d that were sent", c.address, len(got), err, len(data))
		}
		if err := errors.Join(<-sent, conn.Close()); err != nil {
			t.Errorf("%s: %v", c.address, err)
		}
	}
	if _, err := a.DialContext(testContext(t), "tcp", "bob:8"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a closed port: got %v, want a refusal", err)
	}
}

func TestUDPBothWays(t *testing.T) {
	a, b := openPair(t, "")
	p, err := b.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := a.DialContext(testContext(t), "udp", fmt.Sprintf("bob:%d", p.LocalAddr().(*net.UDPAddr).Port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 100)
	if _, err := c.Write([]byte("there")); err != nil {
		t.Fatal(err)
	}
	n, from, err := p.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "there" {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	if _, err := p.WriteTo([]byte("back"), from); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "back" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}

func TestHTTPClient(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // must not matter
	a, b := openPair(t, "")
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s asked for %s", r.RemoteAddr, r.Host)
	})}
	l := listenTest(t, b, ":80")
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	for _, host := range []string{"bob", "10.7.0.2"} {
		r, err := a.HTTPClient().Get("http://" + host + "/")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || !strings.HasPrefix(string(body), "10.7.0.1:") || !strings.HasSuffix(string(body), " asked for "+host) {
			t.Errorf("got %q, %v", body, err)
		}
	}
	server.Close()
	<-served
}

func TestLookupAndPing(t *testing.T) {
	a, _ := openPair(t, "")
	got, err := a.LookupHost(testContext(t), "bob")
	if want := []netip.Addr{netip.MustParseAddr("10.7.0.2"), netip.MustParseAddr("fd07::2")}; err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := a.LookupHost(testContext(t), "eve"); err == nil || !strings.Contains(err.Error(), "eve") {
		t.Errorf("an unknown name: got %v", err)
	}
	if reply, err := a.Ping(testContext(t), "bob"); err != nil || reply.Name != "bob" || reply.Path == nil {
		t.Errorf("got %+v, %v", reply, err)
	}
	if _, err := a.Ping(testContext(t), "eve"); !errors.Is(err, control.ErrNoSuchPeer) {
		t.Errorf("got %v, want %v", err, control.ErrNoSuchPeer)
	}
	s, err := a.Status()
	if err != nil || s.Interface != "tunnel" || s.Tun != "netstack" || len(s.Peers) != 1 || s.Peers[0].State != control.StateConnected {
		t.Errorf("got %+v, %v", s, err)
	}
}

// TestForward reaches a server outside of one tunnel from outside of the other, by the name of the peer.
func TestForward(t *testing.T) {
	outside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	echo(t, outside)
	port, err := program.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	entry := fmt.Sprintf("127.0.0.1:%d", port)
	bus := new(inproc.Bus)
	ka, kb := key.NewPrivate(), key.NewPrivate()
	a := openTest(t, testOptions(t, bus, ka, "10.7.0.1/24", fmt.Sprintf("#!wice Forward = tcp %s -> bob:7\n", entry)+peerSection(kb, "bob", "10.7.0.2/32")))
	openTest(t, testOptions(t, bus, kb, "10.7.0.2/24", fmt.Sprintf("#!wice Forward = tcp tunnel:7 -> %s\n", outside.Addr())+peerSection(ka, "alice", "10.7.0.1/32")))
	if err := a.Wait(testContext(t)); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", entry)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "hello")
	c.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestProxy reaches a server inside of one tunnel through a proxy into the other, which ends with it.
func TestProxy(t *testing.T) {
	port, err := program.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("127.0.0.1:%d", port)
	bus := new(inproc.Bus)
	ka, kb := key.NewPrivate(), key.NewPrivate()
	a := openTest(t, testOptions(t, bus, ka, "10.7.0.1/24", fmt.Sprintf("#!wice HTTPProxy = %s\n", at)+peerSection(kb, "bob", "10.7.0.2/32")))
	b := openTest(t, testOptions(t, bus, kb, "10.7.0.2/24", peerSection(ka, "alice", "10.7.0.1/32")))
	server := &http.Server{Handler: http.NotFoundHandler()}
	l := listenTest(t, b, ":80")
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() { server.Close(); <-served }()
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: at})}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	r, err := client.Get("http://bob/")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusNotFound {
		t.Errorf("got %s", r.Status)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := client.Get("http://bob/"); err == nil {
		r.Body.Close()
		t.Error("the proxy outlives the tunnel")
	}
}

// TestSameAddresses has two networks in one process that use the same addresses and names. Each dial stays in its own.
func TestSameAddresses(t *testing.T) {
	a1, b1 := openPair(t, "")
	a2, b2 := openPair(t, "")
	for i, b := range []*Tunnel{b1, b2} {
		l := listenTest(t, b, ":7")
		done := make(chan struct{})
		go func() {
			defer close(done)
			if c, err := l.Accept(); err == nil {
				fmt.Fprintf(c, "network %d", i+1)
				c.Close()
			}
		}()
		defer func() { l.Close(); <-done }()
	}
	for i, a := range []*Tunnel{a1, a2} {
		c, err := a.DialContext(testContext(t), "tcp", "bob:7")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); string(got) != fmt.Sprintf("network %d", i+1) || err != nil {
			t.Errorf("tunnel %d: got %q, %v", i+1, got, err)
		}
		c.Close()
	}
}

// TestPeerDown dials a peer that is not there.
func TestPeerDown(t *testing.T) {
	kb := key.NewPrivate()
	a := openTest(t, testOptions(t, new(inproc.Bus), key.NewPrivate(), "10.7.0.1/24", peerSection(kb, "bob", "10.7.0.2/32")))
	wrong := func(what string, err error) {
		t.Helper()
		var peer *PeerError
		if !errors.As(err, &peer) || peer.Peer != "bob" || !strings.Contains(err.Error(), "peer bob is connecting: no offer from the peer yet") {
			t.Errorf("%s: got %v", what, err)
		}
	}
	connecting := func() bool {
		s, err := a.Status()
		return err == nil && s.Peers[0].State == control.StateConnecting
	}
	ticks, until := time.Tick(time.Millisecond), testContext(t)
	for !connecting() {
		select {
		case <-ticks:
		case <-until.Done():
			t.Fatal("the peer is not looked for")
		}
	}
	a.patience = 0 // not after 10 s
	_, err := a.DialContext(testContext(t), "tcp", "bob:7")
	wrong("a dial", err)
	if _, err = a.HTTPClient().Get("http://bob/"); err == nil {
		t.Error("a request came through")
	}
	wrong("a request", err)

	a.patience = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = a.DialContext(ctx, "tcp", "10.7.0.2:7")
	wrong("a dial with a deadline", err)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
	if err := a.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "bob: connecting: no offer from the peer yet") {
		t.Errorf("Wait: got %v", err)
	}
	if _, err := a.DialContext(testContext(t), "tcp", "10.9.9.9:7"); !errors.Is(err, netstack.ErrNoRoute) {
		t.Errorf("an address of nobody: got %v", err)
	}
}

// TestCloseUnderTraffic closes one end while data flows both ways: the other end sees the connections end.
func TestCloseUnderTraffic(t *testing.T) {
	a, b := openPair(t, "")
	l := listenTest(t, b, ":7")
	const flows = 4
	var moving, ended sync.WaitGroup
	moving.Add(2 * flows)
	carry := func(c net.Conn) {
		ended.Go(func() {
			for {
				if _, err := c.Write(make([]byte, 32<<10)); err != nil {
					return
				}
			}
		})
		ended.Go(func() {
			defer c.Close()
			var first sync.Once
			for buf := make([]byte, 32<<10); ; first.Do(moving.Done) {
				if _, err := c.Read(buf); err != nil {
					return
				}
			}
		})
	}
	for range flows {
		c, err := a.DialContext(testContext(t), "tcp", "bob:7")
		if err != nil {
			t.Fatal(err)
		}
		carry(c)
		if c, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		carry(c)
	}
	moving.Wait()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	ended.Wait() // of both ends, though b is open
	if s, err := b.Status(); err != nil || len(s.Peers) != 1 {
		t.Errorf("the other end: got %+v, %v", s, err)
	}
}

// TestCloseSendsTheRest closes a connection and the tunnel right after the last byte was written.
func TestCloseSendsTheRest(t *testing.T) {
	a, b := openPair(t, "")
	l := listenTest(t, b, ":7")
	c, err := a.DialContext(testContext(t), "tcp", "bob:7")
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 256<<10)
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Close(), a.Close()); err != nil {
		t.Fatal(err)
	}
	there := <-accepted
	if there == nil {
		t.Fatal("no connection")
	}
	defer there.Close()
	if n, err := io.Copy(io.Discard, there); n != int64(len(data)) || err != nil {
		t.Errorf("got %d bytes, %v; want %d", n, err, len(data))
	}
}

func TestCloseEndsWhatWaits(t *testing.T) {
	kb := key.NewPrivate()
	a := openTest(t, testOptions(t, new(inproc.Bus), key.NewPrivate(), "10.7.0.1/24", peerSection(kb, "bob", "10.7.0.2/32")))
	l := listenTest(t, a, ":7")
	p, err := a.ListenPacket("udp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	results := make(map[string]chan error)
	wait := func(what string, f func() error) {
		c := make(chan error, 1)
		results[what] = c
		go func() { c <- f() }()
	}
	wait("Accept", func() error { _, err := l.Accept(); return err })
	wait("Dial", func() error { _, err := a.Dial("tcp", "bob:7"); return err })
	wait("Wait", func() error { return a.Wait(context.Background()) })
	wait("ReadFrom", func() error { _, _, err := p.ReadFrom(make([]byte, 1)); return err })
	for range 2 {
		wait(fmt.Sprintf("Close %d", len(results)), a.Close)
	}
	for what, c := range results {
		err := <-c
		switch {
		case strings.HasPrefix(what, "Close"):
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		case what == "ReadFrom":
			if err == nil {
				t.Errorf("%s: no error", what)
			}
		case !errors.Is(err, net.ErrClosed):
			t.Errorf("%s: got %v, want %v", what, err, net.ErrClosed)
		}
	}
	for what, f := range map[string]func() error{
		"Dial":         func() error { _, err := a.Dial("tcp", "bob:7"); return err },
		"Listen":       func() error { _, err := a.Listen("tcp", ":8"); return err },
		"ListenPacket": func() error { _, err := a.ListenPacket("udp", ":8"); return err },
		"LookupHost":   func() error { _, err := a.LookupHost(t.Context(), "bob"); return err },
		"Ping":         func() error { _, err := a.Ping(t.Context(), "bob"); return err },
		"Status":       func() error { _, err := a.Status(); return err },
		"Wait":         func() error { return a.Wait(t.Context()) },
		"HTTPClient":   func() error { _, err := a.HTTPClient().Get("http://bob/"); return err },
	} {
		if err := f(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close: got %v, want %v", what, err, net.ErrClosed)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	good := func() Options { return testOptions(t, new(inproc.Bus), key.NewPrivate(), "10.7.0.1/24", "") }
	for _, c := range []struct {
		want   string
		change func(*Options)
	}{
		{"no Config", func(o *Options) { o.Config = nil }},
		{"no PrivateKey", func(o *Options) { o.Config.Interface.PrivateKey = key.Private{} }},
		{"no Address", func(o *Options) { o.Config.Interface.Addresses = nil }},
		{"MTU 1 ", func(o *Options) { o.Config.Interface.MTU = 1 }},
		{`no signaling backend "inproc": want one of libp2p`, func(o *Options) { o.Backends = nil }},
	} {
		o := good()
		c.change(&o)
		tunnel, err := Open(o)
		if err == nil {
			tunnel.Close()
		}
		if err == nil || !strings.HasPrefix(err.Error(), "open tunnel: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// TestListenRefuses asks for what can't be listened on.
func TestListenRefuses(t *testing.T) {
	a := openTest(t, testOptions(t, new(inproc.Bus), key.NewPrivate(), "10.7.0.1/24", ""))
	for _, c := range []struct{ network, address, want string }{
		{"unix", "/x", "want tcp"}, {"tcp", "80", "missing port"}, {"tcp", ":http", "not a number"}, {"tcp", "bob:80", "not an address"}, {"tcp", "10.7.0.9:80", "10.7.0.9"},
	} {
		if _, err := a.Listen(c.network, c.address); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: got %v, want %q", c.network, c.address, err, c.want)
		}
	}
	if _, err := a.ListenPacket("tcp", ":80"); err == nil || !strings.Contains(err.Error(), "want udp") {
		t.Errorf("got %v", err)
	}
}

// TestLiteralConfig opens a tunnel whose configuration was never text.
func TestLiteralConfig(t *testing.T) {
	cfg := &config.Config{
		Interface: config.Interface{PrivateKey: key.NewPrivate(), Addresses: []netip.Prefix{netip.MustParsePrefix("10.7.0.1/24")}},
		Peers:     []config.Peer{{PublicKey: key.NewPrivate().Public(), Name: "bob", AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.7.0.2/32")}}},
	}
	cfg.Interface.Signaling = []config.Signaling{{Backend: "inproc"}}
	a := openTest(t, Options{Config: cfg, Backends: map[string]signal.Factory{"inproc": new(inproc.Bus).New}, Logger: slog.New(slog.DiscardHandler), Name: "mine"})
	if s, err := a.Status(); err != nil || s.Interface != "mine" || len(s.Peers) != 1 || s.Peers[0].Name != "bob" {
		t.Errorf("got %+v, %v", s, err)
	}
}

// TestRendezvous uses the signaling that tunnels have by default, with a rendezvous on this machine.
func TestRendezvous(t *testing.T) {
	server, err := rendezvous.Start(t.Context(), rendezvous.Options{
		Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, StateDir: t.TempDir(), Relay: true, AllowPrivate: true, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	ka, kb := key.NewPrivate(), key.NewPrivate()
	side := func(k key.Private, address, peer string) *Tunnel {
		text := fmt.Sprintf("[Interface]\nPrivateKey = %s\nAddress = %s\n%s\n%s", k.Base64(), address, server.Lines()[0], peer)
		cfg, err := config.Parse("", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		cfg.Interface.Signaling[0].Query.Set("mdns", "false")
		return openTest(t, Options{Config: cfg, IncludeLoopback: true, Logger: slog.New(slog.DiscardHandler)})
	}
	a := side(ka, "10.7.0.1/24", peerSection(kb, "bob", "10.7.0.2/32"))
	b := side(kb, "10.7.0.2/24", peerSection(ka, "alice", "10.7.0.1/32"))
	echo(t, listenTest(t, b, ":7"))
	c, err := a.DialContext(testContext(t), "tcp", "bob:7") // without Wait
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "hello")
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// wrapped counts what passes.
type wrapped struct {
	wgtun.Device
	mu      sync.Mutex
	written int
}

func (w *wrapped) Write(bufs [][]byte, offset int) (int, error) {
	w.mu.Lock()
	w.written += len(bufs)
	w.mu.Unlock()
	return w.Device.Write(bufs, offset)
}

// TestDevice joins a tunnel of a stack to one whose packets go to a device outside: another tunnel's stack stands in for the kernel's.
func TestDevice(t *testing.T) {
	bus := new(inproc.Bus)
	ka, kb := key.NewPrivate(), key.NewPrivate()
	o := testOptions(t, bus, ka, "10.7.0.1/24", peerSection(kb, "bob", "10.7.0.2/32"))
	stack, err := newStack(&o.Config.Interface)
	if err != nil {
		t.Fatal(err)
	}
	var w wrapped
	o.Device, o.Ping = stack.Device(), stack.Ping
	o.Wrap = func(d wgtun.Device) wgtun.Device { w.Device = d; return &w }
	a := openTest(t, o)
	openTest(t, testOptions(t, bus, kb, "10.7.0.2/24", peerSection(ka, "alice", "10.7.0.1/32")))
	if err := a.Wait(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Ping(testContext(t), "bob"); err != nil {
		t.Error(err)
	}
	w.mu.Lock()
	if w.written == 0 {
		t.Error("no packet passed what Wrap put in between")
	}
	w.mu.Unlock()
	if s, err := a.Status(); err != nil || s.Tun != "kernel" {
		t.Errorf("got %+v, %v", s, err)
	}
	if _, err := a.Dial("tcp", "bob:7"); !errors.Is(err, errNoStack) {
		t.Errorf("got %v, want %v", err, errNoStack)
	}
	if a.Stack() != nil || a.Device() == nil {
		t.Error("the wrong stack, or no device")
	}
}
