package rendezvous

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/turn/v4"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
)

// turnClient connects a client over the transport. It is closed with the test.
func turnClient(t *testing.T, s *Server, transport proto.ICETransport, user, password string) *turn.Client {
	t.Helper()
	server := netip.AddrPortFrom(loopback, s.STUNPort()).String()
	var conn net.PacketConn
	if transport == proto.TransportUDP {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		conn = c
	} else {
		c, err := net.Dial("tcp4", server)
		if err != nil {
			t.Fatal(err)
		}
		conn = turn.NewSTUNConn(c)
	}
	c, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr: server, TURNServerAddr: server, Conn: conn, Username: user, Password: password, Realm: realm,
		LoggerFactory: logAdapter{discard},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); conn.Close() })
	return c
}

// credentialsFor returns what the server would hand to the key over libp2p.
func credentialsFor(t *testing.T, s *Server, k key.Public, now time.Time) (user, password string) {
	t.Helper()
	for _, v := range s.iceCredentials(k, netip.Addr{}, now).Servers {
		if v.Scheme == proto.TURN {
			return v.Username, v.Password
		}
	}
	t.Fatal("no TURN server is handed out")
	return "", ""
}

// echo answers every packet on loopback.
func echo(t *testing.T) net.Addr {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo(buf[:n], from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return c.LocalAddr()
}

func TestTURNRelays(t *testing.T) {
	s := start(t, nil)
	to := echo(t)
	for _, transport := range []proto.ICETransport{proto.TransportUDP, proto.TransportTCP} {
		t.Run(string(transport), func(t *testing.T) {
			user, password := credentialsFor(t, s, key.NewPrivate().Public(), time.Now())
			relay, err := turnClient(t, s, transport, user, password).Allocate()
			if err != nil {
				t.Fatal(err)
			}
			defer relay.Close()
			if got := addrPort(relay.LocalAddr()).Addr(); got != loopback {
				t.Errorf("got relay address %s, want the announced one", got)
			}
			relay.SetReadDeadline(time.Now().Add(patience))
			if _, err := relay.WriteTo([]byte("through"), to); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 64)
			n, _, err := relay.ReadFrom(buf)
			if err != nil || string(buf[:n]) != "through" {
				t.Errorf("got %q, %v", buf[:n], err)
			}
		})
	}
}

func TestTURNCredentials(t *testing.T) {
	friend, stranger := key.NewPrivate().Public(), key.NewPrivate().Public()
	s := start(t, func(o *Options) { o.Allow = []key.Public{friend} })
	now := time.Now()
	good, goodPassword := credentialsFor(t, s, friend, now)
	old, oldPassword := s.turn.credentials.issue(friend, now.Add(-time.Second))
	other, otherPassword := s.turn.credentials.issue(stranger, now.Add(time.Hour))
	for _, v := range s.iceCredentials(stranger, netip.Addr{}, now).Servers {
		if v.Scheme != proto.STUN {
			t.Errorf("%v is handed to a key that is not allowed", v)
		}
	}
	for _, test := range []struct {
		name, user, password string
		ok                   bool
	}{
		{"good", good, goodPassword, true},
		{"wrong password", good, otherPassword, false},
		{"expired", old, oldPassword, false},
		{"not allowed", other, otherPassword, false},
		{"later expiry", "9" + good, goodPassword, false},
		{"no key", "9999999999:", "x", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			relay, err := turnClient(t, s, proto.TransportUDP, test.user, test.password).Allocate()
			if (err == nil) != test.ok {
				t.Errorf("got %v, want success: %v", err, test.ok)
			}
			if relay != nil {
				relay.Close()
			}
		})
	}
}

// TestExpiredCredentialsRefresh checks that a relayed session outlives its credentials: the allocation exists, and the same client keeps
// using them.
func TestExpiredCredentialsRefresh(t *testing.T) {
	s := start(t, nil)
	k := key.NewPrivate().Public()
	user, _ := s.turn.credentials.issue(k, time.Now().Add(-time.Minute))
	client, other, server := udp("192.0.2.1:1000"), udp("192.0.2.1:1001"), udp("192.0.2.9:3478")
	if _, ok := s.turn.authenticate(user, realm, client); ok {
		t.Error("expired credentials pass without an allocation")
	}
	s.turn.created(client, server, "", user, realm, udp("192.0.2.9:5000"), 0)
	if _, ok := s.turn.authenticate(user, realm, client); !ok {
		t.Error("the allocation can't be refreshed")
	}
	if _, ok := s.turn.authenticate(user, realm, other); ok {
		t.Error("expired credentials pass from another address")
	}
	if s.turn.admit(user, realm, client) {
		t.Error("expired credentials make an allocation")
	}
	s.turn.deleted(client, server, "", user, realm)
	if _, ok := s.turn.authenticate(user, realm, client); ok {
		t.Error("expired credentials pass after the allocation's end")
	}
}

func udp(s string) *net.UDPAddr { return net.UDPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

func TestQuota(t *testing.T) {
	const limit = 3
	s := start(t, func(o *Options) { o.Limits.AllocationsPerKey = limit })
	greedy, modest := key.NewPrivate().Public(), key.NewPrivate().Public()
	user, password := credentialsFor(t, s, greedy, time.Now())
	var relays []net.PacketConn
	for i := range limit + 1 {
		relay, err := turnClient(t, s, proto.TransportUDP, user, password).Allocate()
		if got, want := err == nil, i < limit; got != want {
			t.Fatalf("allocation %d: got %v", i+1, err)
		}
		if err == nil {
			relays = append(relays, relay)
		} else if !strings.Contains(err.Error(), "486") {
			t.Errorf("got %v, want error 486", err)
		}
	}
	user2, password2 := credentialsFor(t, s, modest, time.Now())
	relay, err := turnClient(t, s, proto.TransportUDP, user2, password2).Allocate()
	if err != nil {
		t.Fatalf("another key suffers: %v", err)
	}
	relay.Close()
	for _, r := range relays {
		r.Close() // a refresh with lifetime 0, which the server answers
	}
	again, err := turnClient(t, s, proto.TransportUDP, user, password).Allocate()
	if err != nil {
		t.Errorf("closed allocations still count: %v", err)
	} else {
		again.Close()
	}
}

func TestQuotaReservationsEnd(t *testing.T) {
	q := newQuota(Limits{Allocations: 2, AllocationsPerKey: 1, BytesPerSecond: 1})
	k, now := key.NewPrivate().Public(), time.Now()
	if !q.reserve(k, now) || q.reserve(k, now) {
		t.Error("a request that was admitted does not count")
	}
	if !q.reserve(k, now.Add(reservationLife)) {
		t.Error("a request that came to nothing counts for ever")
	}
	q.add(k, "u", udp("192.0.2.1:1"))
	if q.reserve(k, now.Add(time.Hour)) {
		t.Error("an allocation does not count")
	}
}

// TestQuotaOfTwoAtOneAddress counts two allocations of a client's address, as over UDP and TCP or one after another of which the first is deleted late:
// when both are deleted, none counts.
func TestQuotaOfTwoAtOneAddress(t *testing.T) {
	s := start(t, nil)
	k := key.NewPrivate().Public()
	client, server := udp("192.0.2.1:1000"), udp("192.0.2.9:3478")
	first, _ := s.turn.credentials.issue(k, time.Now().Add(time.Minute))
	second, _ := s.turn.credentials.issue(k, time.Now().Add(time.Hour))
	for _, users := range [][2]string{{first, second}, {first, first}} {
		for _, user := range users {
			s.turn.created(client, server, "", user, realm, udp("192.0.2.9:5000"), 0)
		}
		s.turn.deleted(client, server, "", users[0], realm)
		if !s.turn.quota.holds(users[1], client) || s.turn.quota.count != 1 {
			t.Errorf("%s and %s: %d are counted after the first has gone", users[0], users[1], s.turn.quota.count)
		}
		s.turn.deleted(client, server, "", users[1], realm)
		s.turn.deleted(client, server, "", users[1], realm)
		if q := s.turn.quota; q.count != 0 || len(q.held) != 0 || len(q.keys) != 0 {
			t.Errorf("%s and %s: %d are counted after both have gone", users[0], users[1], q.count)
		}
	}
}

// TestRelayIsClosedAgain closes a relay's socket again once another one has its port.
func TestRelayIsClosedAgain(t *testing.T) {
	s := start(t, nil)
	g := &relayGenerator{s.turn, endpoint{listen: loopback, announce: loopback}}
	old, addr, err := g.AllocatePacketConn("udp4", 0)
	if err != nil {
		t.Fatal(err)
	}
	old.Close()
	if s.turn.relays[addrPort(addr)] != nil {
		t.Error("a relay that was closed is left")
	}
	next, _, err := g.AllocatePacketConn("udp4", int(addrPort(addr).Port()))
	if err != nil {
		t.Skipf("another program has the port: %v", err)
	}
	defer next.Close()
	old.Close()
	if s.turn.relays[addrPort(addr)] != next {
		t.Error("the relay that has the port now is not known any more")
	}
}

func TestBandwidth(t *testing.T) {
	const rate = 4000
	s := start(t, func(o *Options) { o.Limits.BytesPerSecond = rate })
	user, password := credentialsFor(t, s, key.NewPrivate().Public(), time.Now())
	relay, err := turnClient(t, s, proto.TransportUDP, user, password).Allocate()
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	to, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	const packet, packets = 500, 40
	for range packets {
		if _, err := relay.WriteTo(make([]byte, packet), to.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	got := 0
	buf := make([]byte, 2*packet)
	for {
		to.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, _, err := to.ReadFrom(buf)
		if err != nil {
			break
		}
		got += n
	}
	// One second's worth comes as a burst, and at most as much again in the second that this takes at most.
	if got < rate/2 || got > 2*rate {
		t.Errorf("got %d of %d bytes with a limit of %d a second", got, packet*packets, rate)
	}
}

func TestRefused(t *testing.T) {
	strict, private := policy{}, policy{allowPrivate: true}
	for _, test := range []struct {
		addr                   string
		strict, private, local bool // is it relayed to?
	}{
		{"5.1.0.1", true, true, true},
		{"2a0e::1", true, true, true},
		{"192.0.2.1", true, true, true}, // documentation ranges lead nowhere, and tests live on them
		{"10.0.0.1", false, true, true},
		{"172.16.0.1", false, true, true},
		{"172.32.0.1", true, true, true},
		{"192.168.1.1", false, true, true},
		{"100.64.0.1", false, true, true},
		{"100.100.100.200", false, true, true},
		{"fd00::1", false, true, true},
		{"::ffff:10.0.0.1", false, true, true},
		{"127.0.0.1", false, false, true},
		{"127.255.255.254", false, false, true},
		{"::1", false, false, true},
		{"::ffff:127.0.0.1", false, false, true},
		{"::127.0.0.1", false, false, false},
		{"0.0.0.0", false, false, false},
		{"0.1.2.3", false, false, false},
		{"::", false, false, false},
		{"169.254.169.254", false, false, false},
		{"::ffff:169.254.169.254", false, false, false},
		{"168.63.129.16", false, false, false},
		{"192.0.0.192", false, false, false},
		{"fe80::1", false, false, false},
		{"fec0::1", false, false, false},
		{"224.0.0.1", false, false, false},
		{"255.255.255.255", false, false, false},
		{"240.0.0.1", false, false, false},
		{"ff02::1", false, false, false},
		{"64:ff9b::a00:1", false, false, false},
		{"2002:a00:1::", false, false, false},
		{"2001:0:1:2::", false, false, false},
	} {
		a := netip.MustParseAddr(test.addr)
		local := policy{allowPrivate: true, loopback: true}
		for _, p := range []struct {
			name string
			policy
			want bool
		}{{"strict", strict, test.strict}, {"private", private, test.private}, {"loopback", local, test.local}} {
			if why := p.refusal(a); (why == "") != p.want {
				t.Errorf("%s, %s: got %q, want relayed: %v", a, p.name, why, p.want)
			}
		}
	}
	if strict.refusal(netip.Addr{}) == "" {
		t.Error("an invalid address is relayed to")
	}
}

// TestRefusedByTheServer checks that the table is asked, for both forms that a client can send.
func TestRefusedByTheServer(t *testing.T) {
	s := start(t, func(o *Options) { o.AllowPrivate = false })
	user, password := credentialsFor(t, s, key.NewPrivate().Public(), time.Now())
	c := turnClient(t, s, proto.TransportUDP, user, password)
	relay, err := c.Allocate()
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	for _, to := range []string{"127.0.0.1:53", "10.1.2.3:53", "169.254.169.254:80"} {
		if err := c.CreatePermission(udp(to)); err == nil {
			t.Errorf("%s: got permission", to)
		}
	}
	if err := c.CreatePermission(udp("5.1.0.1:53")); err != nil {
		t.Errorf("a public address: %v", err)
	}
}

// TestOwnAddresses checks that the relay is no way to other services on the server's own public address.
func TestOwnAddresses(t *testing.T) {
	public := netip.MustParseAddr("5.1.0.1")
	relay := netip.AddrPortFrom(public, 50000)
	s := &turnServer{own: []netip.Addr{public}, relays: map[netip.AddrPort]*relayConn{relay: {}}}
	for to, want := range map[string]bool{
		"5.1.0.1:50000": true, "5.1.0.1:53": false, "5.1.0.2:53": true, "[::ffff:5.1.0.2]:53": true, "10.0.0.1:50000": false,
	} {
		if got := s.sendable(netip.MustParseAddrPort(to)); got != want {
			t.Errorf("%s: got %v, want %v", to, got, want)
		}
	}
}

func TestTCPConnectionsAreLimited(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	limited := limitListener(l, Limits{TURNConns: 10, TURNConnsPerIP: 1, TURNIdle: time.Hour})
	defer limited.Close()
	accepted := make(chan net.Conn, 4)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := limited.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := dial()
	defer first.Close()
	held := wait(t, "connection", accepted)
	second := dial()
	defer second.Close()
	second.SetReadDeadline(time.Now().Add(patience))
	if _, err := second.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the second connection: got %v, want that it is closed", err)
	}
	held.Close()
	held.Close() // counts once
	third := dial()
	defer third.Close()
	wait(t, "connection after the first was closed", accepted).Close()
	limited.Close()
	<-done
}

func FuzzParseUsername(f *testing.F) {
	f.Add(fmt.Sprintf("1700000000:%s", key.NewPrivate().Public()))
	f.Add("1700000000")
	f.Add(":")
	f.Add("-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	f.Fuzz(func(t *testing.T, s string) {
		k, _, ok := parseUsername(s)
		if ok && k.Validate() != nil {
			t.Errorf("%q: got key %s", s, k)
		}
	})
}
