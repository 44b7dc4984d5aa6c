package session

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/stun"
	"github.com/pion/transport/v2/stdnet"
	turnclient "github.com/pion/turn/v2"
	"github.com/pion/turn/v4"

	"github.com/wice-go/wice-go/proto"
)

// wholeConn reads whole messages, as who implements Options.RelayStream does.
type wholeConn struct {
	net.Conn
	closed chan struct{}
	once   atomic.Bool
}

func newWholeConn(c net.Conn) *wholeConn { return &wholeConn{Conn: c, closed: make(chan struct{})} }

func (c *wholeConn) Read(b []byte) (int, error) {
	if _, err := io.ReadFull(c.Conn, b[:4]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(b[2:])) + stunHeader
	if b[0]&0xc0 == 0x40 {
		n = (int(binary.BigEndian.Uint16(b[2:])) + 7) &^ 3
	}
	_, err := io.ReadFull(c.Conn, b[4:n])
	return n, err
}

func (c *wholeConn) Close() error {
	if c.once.CompareAndSwap(false, true) {
		close(c.closed)
	}
	return c.Conn.Close()
}

// turnServers is one TURN server with a port for each way to it.
type turnServers struct {
	udp                       net.PacketConn
	overUDP, overTCP, overTLS proto.ICEServer
	roots                     *x509.CertPool
	script                    scriptedConn // of udp
}

func newTURNServers(t *testing.T) *turnServers {
	t.Helper()
	s := &turnServers{roots: x509.NewCertPool()}
	cert := certificate(t)
	s.roots.AddCert(cert.Leaf)
	var err error
	if s.udp, err = net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.script.PacketConn = s.udp
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	secure, err := tls.Listen("tcp4", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	relay := &turn.RelayAddressGeneratorStatic{RelayAddress: net.IPv4(127, 0, 0, 1), Address: "127.0.0.1"}
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	srv, err := turn.NewServer(turn.ServerConfig{
		Realm:         "test",
		LoggerFactory: quiet,
		AuthHandler: func(user, realm string, _ net.Addr) ([]byte, bool) {
			return turn.GenerateAuthKey(user, realm, "secret"), true
		},
		PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: &s.script, RelayAddressGenerator: relay}},
		ListenerConfigs:   []turn.ListenerConfig{{Listener: tcp, RelayAddressGenerator: relay}, {Listener: secure, RelayAddressGenerator: relay}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	server := func(scheme proto.ICEScheme, transport proto.ICETransport, a net.Addr) proto.ICEServer {
		return proto.ICEServer{Scheme: scheme, Host: "127.0.0.1", Port: uint16(portOf(a)), Transport: transport, Username: "user", Password: "secret"}
	}
	s.overUDP = server(proto.TURN, proto.TransportUDP, s.udp.LocalAddr())
	s.overTCP = server(proto.TURN, proto.TransportTCP, tcp.Addr())
	s.overTLS = server(proto.TURNS, proto.TransportTCP, secure.Addr())
	return s
}

// certificate signs itself.
func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k, Leaf: c}
}

func (s *turnServers) net(ctx context.Context) *agentNet {
	return &agentNet{
		Net: &stdnet.Net{}, ctx: ctx, servers: []proto.ICEServer{s.overUDP, s.overTCP, s.overTLS}, roots: s.roots,
		stream: func(c net.Conn) net.Conn { return newWholeConn(c) },
	}
}

func address(s proto.ICEServer) string {
	return netip.AddrPortFrom(netip.MustParseAddr(s.Host), s.Port).String()
}

// allocate has pion's client allocate a relay, as pion's agent does.
func allocate(t *testing.T, pc net.PacketConn, s proto.ICEServer) net.PacketConn {
	t.Helper()
	client, err := turnclient.NewClient(&turnclient.ClientConfig{
		TURNServerAddr: address(s), Conn: pc, Username: s.Username, Password: s.Password, LoggerFactory: loggerFactory{discard()},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		pc.Close()
	})
	relay, err := client.Allocate()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { relay.Close() })
	return relay
}

// TestRelayIsNotEnded: whoever knows the relay's address, or writes the server's in front of what it sends, does not end it. A server is
// reached the way that it is configured for.
func TestRelayIsNotEnded(t *testing.T) {
	s := newTURNServers(t)
	for _, c := range []struct {
		name   string
		server proto.ICEServer
	}{{"udp", s.overUDP}, {"tcp", s.overTCP}, {"tls", s.overTLS}} {
		t.Run(c.name, func(t *testing.T) {
			n := s.net(t.Context())
			var pc net.PacketConn
			if c.server.Transport == proto.TransportUDP {
				var err error
				if pc, err = n.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
					t.Fatal(err)
				}
			} else {
				conn, err := relayDialer{n}.Dial("tcp4", address(c.server))
				if err != nil {
					t.Fatal(err)
				}
				if _, ok := conn.LocalAddr().(*net.TCPAddr); !ok {
					t.Errorf("local address: got %T, which pion does not take", conn.LocalAddr())
				}
				_, secure := conn.(*relayStream).Conn.(*wholeConn).Conn.(*tls.Conn)
				if secure != c.server.IsTLS() {
					t.Errorf("over TLS: %v", secure)
				}
				if n.carriers[carrierKey("tcp", portOf(conn.LocalAddr()))] != conn.(*relayStream).Conn {
					t.Error("the carrier was not noted")
				}
				pc = turnclient.NewSTUNConn(conn)
			}
			relay := allocate(t, pc, c.server)
			peer, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			b := make([]byte, 1<<16)
			talk := func(out string) {
				t.Helper()
				if _, err := relay.WriteTo([]byte(out), peer.LocalAddr()); err != nil {
					t.Fatal(err)
				}
				peer.SetReadDeadline(time.Now().Add(patience))
				k, from, err := peer.ReadFrom(b)
				if err != nil || string(b[:k]) != out {
					t.Fatalf("got %q, %v; want %q", b[:k], err, out)
				}
				for _, in := range []string{"back", "!\x12\xa4B\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "", "x", string(bytes.Repeat([]byte("y"), 8000)), "end"} {
					if _, err := peer.WriteTo([]byte(in), from); err != nil {
						t.Fatal(err)
					}
				}
				relay.SetReadDeadline(time.Now().Add(patience))
				for got := ""; got != "end"; got = string(b[:k]) {
					if k, from, err = relay.ReadFrom(b); err != nil || from.String() != peer.LocalAddr().String() {
						t.Fatalf("got %v from %v after %q", err, from, got)
					}
				}
			}
			for range 5 { // first by indications, then by the channel
				talk("out of here") // pion's server waits for more than 8 bytes
			}
			if c.server.Transport != proto.TransportUDP {
				return
			}
			for _, m := range [][]byte{
				stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw,
				stun.MustBuild(stun.TransactionID, stun.BindingSuccess).Raw,
				stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodConnectionAttempt, stun.ClassIndication)).Raw,
				channelData(0x5555, []byte("nobody asked for this channel")),
				channelData(0x4000, []byte("truncated"))[:8],
				channelData(0x4000, make([]byte, 60000)),
				[]byte("junk"), nil,
			} {
				if _, err := s.udp.WriteTo(m, pc.LocalAddr()); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if _, err := relay.WriteTo([]byte("once more"), peer.LocalAddr()); err != nil {
					t.Fatal(err)
				}
				peer.SetReadDeadline(time.Now().Add(patience))
				_, from, err := peer.ReadFrom(b)
				if err != nil {
					t.Fatal(err)
				}
				peer.WriteTo([]byte("once more"), from)
				relay.SetReadDeadline(time.Now().Add(patience))
				for got := ""; got != "once more"; {
					k, _, err := relay.ReadFrom(b)
					if err != nil {
						t.Fatalf("the relay has ended: %v", err)
					}
					got = string(b[:k])
				}
			}
		})
	}
}

func TestOverTLS(t *testing.T) {
	server := func(scheme proto.ICEScheme, transport proto.ICETransport, host string, port uint16) proto.ICEServer {
		return proto.ICEServer{Scheme: scheme, Transport: transport, Host: host, Port: port}
	}
	d := relayDialer{&agentNet{servers: []proto.ICEServer{
		server(proto.TURN, proto.TransportTCP, "a.example", 3478),
		server(proto.TURNS, proto.TransportTCP, "a.example", 5349),
		server(proto.TURNS, proto.TransportUDP, "a.example", 443), // DTLS
		server(proto.TURN, proto.TransportTCP, "a.example", 443),
		server(proto.STUNS, proto.TransportTCP, "b.example", 5349),
		server(proto.TURNS, proto.TransportTCP, "2001:db8::1", 5349),
	}}}
	for address, want := range map[string]string{
		"a.example:3478": "", "a.example:5349": "a.example", "a.example:443": "", "b.example:5349": "", "2001:db8::1:5349": "2001:db8::1", "c.example:1": "",
	} {
		if name, ok := d.overTLS(address); name != want || ok != (want != "") {
			t.Errorf("%s: got %q, %v; want %q", address, name, ok, want)
		}
	}
}

// After a handshake that failed nothing is left: the server sees the end of the connection, goleak the rest.
func TestRelayDialerHandshakeFails(t *testing.T) {
	s := newTURNServers(t)
	plain, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for name, answer := range map[string]string{"not TLS": "HTTP/1.1 400 Bad Request\r\n\r\n", "hangs up": ""} {
		n := s.net(t.Context())
		n.servers = []proto.ICEServer{s.overTLS}
		n.servers[0].Port = uint16(portOf(plain.Addr()))
		n.stream = func(net.Conn) net.Conn { t.Errorf("%s: a stream was made", name); return nil }
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			c, err := plain.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			io.ReadFull(c, make([]byte, 1))
			io.WriteString(c, answer)
			if answer != "" {
				if _, err := io.Copy(io.Discard, c); err != nil && err.(net.Error).Timeout() {
					t.Errorf("%s: the connection stays open", name)
				}
			}
		}()
		if c, err := (relayDialer{n}).Dial("tcp4", address(n.servers[0])); err == nil {
			t.Errorf("%s: no error", name)
			c.Close()
		}
		<-ended
	}
	n := s.net(t.Context())
	n.roots = x509.NewCertPool()
	if c, err := (relayDialer{n}).Dial("tcp4", address(s.overTLS)); err == nil {
		t.Error("a certificate that nobody has signed was taken")
		c.Close()
	}
	if len(n.carriers) > 0 {
		t.Errorf("carriers: %v", n.carriers)
	}
}

// A server that accepts and then says nothing does not hold up the end of the agent.
func TestRelayDialerIsCalledOff(t *testing.T) {
	silent, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s := newTURNServers(t)
	ctx, cancel := context.WithCancel(t.Context())
	n := s.net(ctx)
	n.servers = []proto.ICEServer{s.overTLS}
	n.servers[0].Port = uint16(portOf(silent.Addr()))
	go func() {
		c, err := silent.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.ReadFull(c, make([]byte, 1)) // the handshake is under way
		cancel()
		c.SetDeadline(time.Now().Add(patience))
		io.Copy(io.Discard, c)
	}()
	began := time.Now()
	if _, err := (relayDialer{n}).Dial("tcp4", address(n.servers[0])); err == nil {
		t.Error("no error")
	}
	if took := time.Since(began); took >= dialTimeout {
		t.Errorf("took %v", took)
	}
	if _, err := (relayDialer{n}).Dial("tcp4", address(n.servers[0])); err == nil {
		t.Error("an agent that has ended dials")
	}
}

// streamOptions has a session use relays over TCP alone, and reports its streams.
func streamOptions(server proto.ICEServer, streams chan<- *wholeConn) func(*Options) {
	return func(o *Options) {
		o.CandidateTypes = []proto.CandidateType{proto.Relay}
		o.ICEServers = func() []proto.ICEServer { return []proto.ICEServer{server} }
		o.RelayStream = func(c net.Conn) net.Conn {
			w := newWholeConn(c)
			streams <- w
			return w
		}
	}
}

func (c *wholeConn) awaitClose(t *testing.T) {
	t.Helper()
	select {
	case <-c.closed:
	case <-time.After(patience):
		t.Fatal("the stream stays open")
	}
}

// TestRelayStream: the stream is the path's carrier, and ends with the agent, or when there is no allocation.
func TestRelayStream(t *testing.T) {
	s := newTURNServers(t)
	ka, kb := keys()
	w := newWire(0)
	streams := make(chan *wholeConn, 100)
	a, b := newSide(t, w, ka, kb, streamOptions(s.overTCP, streams)), newSide(t, w, kb, ka, streamOptions(s.overTCP, streams))
	a.s.Start()
	pa, pb := a.path(0), b.path(0)
	transfer(t, pa, pb)
	transfer(t, pb, pa)
	if c, ok := pa.Carrier.(*wholeConn); !ok || pa.RelayProtocol != "tcp" || uint16(portOf(c.LocalAddr())) != pa.Base.Port() {
		t.Errorf("got %+v", pa)
	}
	a.close()
	b.close()
	close(streams)
	for c := range streams {
		c.awaitClose(t)
	}

	wrong := s.overTCP
	wrong.Password = "wrong"
	streams = make(chan *wholeConn, 100)
	a = newSide(t, newWire(0), ka, kb, streamOptions(wrong, streams))
	newSide(t, a.wire, kb, ka, streamOptions(wrong, streams))
	a.s.Start()
	(<-streams).awaitClose(t) // while the agent lives
}

// TestRelayStreamSilentServer: a server that was alive and then says nothing does not hold up Close either.
func TestRelayStreamSilentServer(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	second := make(chan struct{}, 10)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 1<<16)
				n, err := newWholeConn(c).Read(b)
				m := &stun.Message{Raw: b[:n]}
				if err != nil || m.Decode() != nil {
					return
				}
				r := stun.MustBuild(stun.NewType(stun.MethodAllocate, stun.ClassErrorResponse), stun.CodeUnauthorized, stun.NewRealm("test"), stun.NewNonce("nonce"))
				r.TransactionID = m.TransactionID
				r.WriteHeader()
				c.Write(r.Raw)
				if _, err := newWholeConn(c).Read(b); err == nil {
					second <- struct{}{}
				}
				io.Copy(io.Discard, c)
			}()
		}
	}()
	ka, kb := keys()
	streams := make(chan *wholeConn, 100)
	server := proto.ICEServer{Scheme: proto.TURN, Host: "127.0.0.1", Port: uint16(portOf(ln.Addr())), Transport: proto.TransportTCP, Username: "u", Password: "p"}
	a := newSide(t, newWire(0), ka, kb, streamOptions(server, streams))
	b := newSide(t, a.wire, kb, ka, streamOptions(server, streams))
	a.s.Start()
	<-second
	began := time.Now()
	a.close()
	b.close()
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("closing took %v", took)
	}
}
