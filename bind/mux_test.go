package bind

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/ice/v2"
	"github.com/pion/stun"
)

var loopbackOnly = Options{IncludeLoopback: true, ExcludeInterface: func(name string) bool { return name != "lo" && name != "lo0" }}

func localUDP(b *testBind, addr string) net.Addr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), b.port))
}

func muxConnOf(t *testing.T, b *testBind, ufrag, addr string) net.PacketConn {
	t.Helper()
	c, err := b.Mux().GetConn(ufrag, localUDP(b, addr))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// read returns the next message of a connection.
func read(t *testing.T, c net.PacketConn) ([]byte, netip.AddrPort) {
	t.Helper()
	type result struct {
		b   []byte
		src net.Addr
		err error
	}
	done := make(chan result, 1)
	go func() {
		buf := make([]byte, 1500)
		n, src, err := c.ReadFrom(buf)
		done <- result{buf[:n], src, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			t.Fatal(r.err)
		}
		return r.b, r.src.(*net.UDPAddr).AddrPort()
	case <-time.After(patience):
		c.Close()
		t.Fatalf("no message within %v", patience)
		panic("unreachable")
	}
}

// TestMuxRoutes sends requests and responses between two muxes.
func TestMuxRoutes(t *testing.T) {
	a, b := openBind(t, loopbackOnly), openBind(t, loopbackOnly)
	ca := muxConnOf(t, a, "aaaa", "127.0.0.1")
	b1 := muxConnOf(t, b, "bbbb", "127.0.0.1")
	b2 := muxConnOf(t, b, "bbbb", "127.0.0.2")
	if again := muxConnOf(t, b, "bbbb", "127.0.0.2"); again != b2 {
		t.Error("another connection for the same address")
	}

	// A request goes to the connection of the address it was sent to, and leaves from its own.
	conns := map[string]net.PacketConn{"127.0.0.1": b1}
	if knowsLocal {
		conns["127.0.0.2"] = b2
	}
	for addr, c := range conns {
		req := bindingRequest(t, stun.NewUsername("bbbb:aaaa"))
		if _, err := ca.WriteTo(req, localUDP(b, addr)); err != nil {
			t.Fatal(err)
		}
		got, src := read(t, c)
		if string(got) != string(req) || src != a.addr4() {
			t.Errorf("%s: got % x from %s", addr, got, src)
		}
		// The response takes the way back by its transaction, from the address that was asked.
		resp, err := stun.Build(stun.NewTransactionIDSetter(transactionID(req)), stun.BindingSuccess)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.WriteTo(resp.Raw, net.UDPAddrFromAddrPort(src)); err != nil {
			t.Fatal(err)
		}
		if got, src := read(t, ca); string(got) != string(resp.Raw) || src.Addr() != netip.MustParseAddr(addr) {
			t.Errorf("%s: got % x from %s", addr, got, src)
		}
	}
	if len(a.mux.tx.young) != 0 {
		t.Errorf("%d transactions are left", len(a.mux.tx.young))
	}
	if _, err := ca.WriteTo(bindingRequest(t), localUDP(b, "::1")); err == nil {
		t.Error("sent from IPv4 to IPv6")
	}

	// Closing unblocks, also through the fragment.
	errs := make(chan error, 3)
	for _, c := range []net.PacketConn{ca, b1, b2} {
		go func() {
			_, _, err := c.ReadFrom(make([]byte, 1500))
			errs <- err
		}()
	}
	if err := ca.SetDeadline(time.Now()); err != nil {
		t.Error(err)
	}
	ca.Close()
	ca.Close()
	b.Mux().RemoveConnByUfrag("bbbb")
	for range 3 {
		if err := <-errs; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want net.ErrClosed", err)
		}
	}
	if _, err := ca.WriteTo(nil, localUDP(b, "127.0.0.1")); err != io.ErrClosedPipe {
		t.Errorf("got %v, want io.ErrClosedPipe", err)
	}
	if len(a.mux.conns) != 0 || len(b.mux.conns) != 0 {
		t.Error("connections are left")
	}
	b.Mux().Close()
	b.Mux().Close()
	if _, err := b.Mux().GetConn("bbbb", localUDP(b, "127.0.0.1")); err == nil {
		t.Error("a closed mux gave a connection")
	}
}

// TestMuxSilence sends what nobody asked for, and checks that not one byte comes back.
func TestMuxSilence(t *testing.T) {
	var excluded atomic.Bool
	o := loopbackOnly
	o.Exclude = func(netip.Addr) bool { return excluded.Load() }
	b := openBind(t, o)
	c := muxConnOf(t, b, "bbbb", "127.0.0.1")
	foreign := udpConn(t, "127.0.0.1:0")
	send := func(p []byte) {
		t.Helper()
		if _, err := foreign.WriteToUDPAddrPort(p, b.addr4()); err != nil {
			t.Fatal(err)
		}
	}
	response, _ := stun.Build(stun.TransactionID, stun.BindingSuccess)
	indication, _ := stun.Build(stun.TransactionID, stun.NewType(stun.MethodBinding, stun.ClassIndication))
	send(bindingRequest(t, stun.NewUsername("wrong:aaaa")))
	send(bindingRequest(t))
	send(bindingRequest(t, stun.NewUsername("bbbb")))
	send(response.Raw)
	send(indication.Raw)
	excluded.Store(true)
	send(bindingRequest(t, stun.NewUsername("bbbb:aaaa")))
	// Whatever follows WireGuard's packet has been handled after all of these.
	send(transport(32, 1))
	b.next(t)
	excluded.Store(false)
	if n := b.Stats().STUNUnknown; n != 6 {
		t.Errorf("%d messages dropped, want 6", n)
	}
	last := bindingRequest(t, stun.NewUsername("bbbb:last"))
	send(last)
	if got, _ := read(t, c); string(got) != string(last) {
		t.Errorf("got % x", got)
	}
	foreign.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := foreign.Read(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes came back", n)
	}
}

// TestMuxLimits floods an agent from unknown addresses.
func TestMuxLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(loopbackOnly)
		defer b.Shutdown()
		c, err := b.Mux().GetConn("bbbb", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1})
		if err != nil {
			t.Fatal(err)
		}
		from := &origin{source: sourceOf(nthAddr(1)), local: local{addr: netip.MustParseAddr("127.0.0.1")}}
		flood := func(n int) {
			for range n {
				b.mux.deliver(bindingRequest(t, stun.NewUsername("bbbb:aaaa")), from)
			}
		}
		flood(unsolicitedBurst + 100)
		if s := b.Stats(); s.STUNRateLimited != 100 || s.STUNUnknown != unsolicitedBurst-muxQueue {
			t.Errorf("got %+v, want 100 over the limit and all but %d over the queue", s, muxQueue)
		}
		// An address that the agent has sent to is not limited.
		c.(*muxConn).WriteTo(bindingRequest(t), net.UDPAddrFromAddrPort(nthAddr(1))) // the bind is closed; the address counts
		flood(10)
		if s := b.Stats(); s.STUNRateLimited != 100 {
			t.Errorf("%d over the limit, want 100", s.STUNRateLimited)
		}
	})
}

func TestTransactions(t *testing.T) {
	var tx transactions
	now := time.Unix(1e9, 0)
	dst, other := nthAddr(1), nthAddr(2)
	id := func(i int) (id txID) {
		id[0], id[1], id[2] = byte(i), byte(i>>8), byte(i>>16)
		return id
	}
	put := func(i int) { tx.put(id(i), transaction{dst: dst, expires: now.Add(transactionLifetime)}, now) }
	put(1)
	if _, ok := tx.take(id(1), other, now); ok {
		t.Error("taken by another source")
	}
	if _, ok := tx.take(id(1), dst, now); !ok {
		t.Error("not taken")
	}
	if _, ok := tx.take(id(1), dst, now); ok {
		t.Error("taken twice")
	}
	put(2)
	if _, ok := tx.take(id(2), dst, now.Add(time.Minute)); ok {
		t.Error("taken after it had expired")
	}
	for i := range 3 * maxTransactions {
		put(i)
	}
	if n := len(tx.young) + len(tx.old); n > 2*maxTransactions {
		t.Errorf("%d transactions, want at most %d", n, 2*maxTransactions)
	}
}

func TestCandidateAddrs(t *testing.T) {
	addr := netip.MustParseAddr
	all := []hostAddr{
		{"lo", addr("127.0.0.1")}, {"lo", addr("::1")},
		{"eth0", addr("192.0.2.1")}, {"eth0", addr("2001:db8::1")}, {"eth0", addr("fe80::1")}, {"eth0", addr("fec0::1")}, {"eth0", addr("::192.0.2.1")},
		{"wg0", addr("10.0.0.1")}, {"eth1", addr("192.0.2.1")}, {"eth1", addr("10.9.0.1")}, {"eth1", addr("224.0.0.1")},
	}
	exclude := Options{
		Exclude:          netip.MustParsePrefix("10.9.0.0/16").Contains,
		ExcludeInterface: func(n string) bool { return n == "wg0" },
	}
	loopback := exclude
	loopback.IncludeLoopback = true
	public := []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")}
	for _, c := range []struct {
		name string
		o    Options
		in   []hostAddr
		want []netip.Addr
	}{
		{"filters", exclude, all, public},
		{"nothing but loopback", exclude, all[:2], []netip.Addr{addr("127.0.0.1"), addr("::1")}},
		{"with loopback", loopback, all, append([]netip.Addr{addr("127.0.0.1"), addr("::1")}, public...)},
	} {
		if got := c.o.candidateAddrs(c.in); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	var many []hostAddr
	for i := range 100 {
		many = append(many, hostAddr{"eth0", nthAddr(i).Addr()})
	}
	if n := len(exclude.candidateAddrs(many)); n != maxListenAddrs {
		t.Errorf("%d addresses, want %d", n, maxListenAddrs)
	}

	b := openBind(t, loopbackOnly)
	got := b.Mux().GetListenAddresses()
	if len(got) == 0 || got[0].(*net.UDPAddr).Port != int(b.port) || !got[0].(*net.UDPAddr).IP.IsLoopback() {
		t.Errorf("got %v, want loopback addresses with port %d", got, b.port)
	}
	b.Close()
	if got := b.Mux().GetListenAddresses(); got != nil {
		t.Errorf("got %v from a closed bind", got)
	}
}

// stunServer answers with the source's address, shifted by a port offset as a symmetric NAT would make it look, after ignoring some
// requests.
func stunServer(t *testing.T, ignore int, offset int) (addr *net.UDPAddr, requests *atomic.Int32) {
	t.Helper()
	c := udpConn(t, "127.0.0.1:0")
	requests = new(atomic.Int32)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFromUDP(buf)
			if err != nil {
				return
			}
			if int(requests.Add(1)) <= ignore || classify(buf[:n]) != kindSTUN {
				continue
			}
			m, err := stun.Build(stun.NewTransactionIDSetter(transactionID(buf[:n])), stun.BindingSuccess,
				&stun.XORMappedAddress{IP: from.IP, Port: from.Port + offset})
			if err != nil {
				continue
			}
			c.WriteToUDP(m.Raw, from)
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	return c.LocalAddr().(*net.UDPAddr), requests
}

func TestMappedAddr(t *testing.T) {
	b := openBind(t, loopbackOnly)
	m := b.Mux()
	if _, known := m.NATHints(); known {
		t.Error("known without an answer")
	}
	one, requests := stunServer(t, 1, 0)
	url := "stun:" + one.String()
	if _, err := m.GetConnForURL("aaaa", url, localUDP(b, "127.0.0.1")); err == nil {
		t.Error("a connection for a server that has not answered")
	}
	for range 3 {
		got, err := m.GetXORMappedAddr(one, patience)
		if err != nil || got.Port != int(b.port) {
			t.Fatalf("got %v, %v, want port %d", got, err, b.port)
		}
	}
	if n := requests.Load(); n != 2 {
		t.Errorf("%d requests, want 2: one lost, and one for all callers", n)
	}
	m.Expire(time.Hour)
	if _, err := m.GetXORMappedAddr(one, patience); err != nil || requests.Load() != 2 {
		t.Errorf("got %v after %d requests, want the answer that is not too old", err, requests.Load())
	}
	m.Expire(0)
	if _, err := m.GetXORMappedAddr(one, patience); err != nil || requests.Load() != 3 {
		t.Errorf("got %v after %d requests, want a new answer", err, requests.Load())
	}
	if _, known := m.NATHints(); known {
		t.Error("known with one answer")
	}
	same, _ := stunServer(t, 0, 0)
	if _, err := m.GetXORMappedAddr(same, patience); err != nil {
		t.Fatal(err)
	}
	if symmetric, known := m.NATHints(); symmetric || !known {
		t.Errorf("got %t, %t, want a known, well-behaved NAT", symmetric, known)
	}
	shifted, _ := stunServer(t, 0, 1)
	if _, err := m.GetXORMappedAddr(shifted, patience); err != nil {
		t.Fatal(err)
	}
	if symmetric, known := m.NATHints(); !symmetric || !known {
		t.Errorf("got %t, %t, want a known symmetric NAT", symmetric, known)
	}

	// Only the address that asked is the base of a candidate.
	c, err := m.GetConnForURL("aaaa", url, localUDP(b, "127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"127.0.0.2", "::1", "127.0.0.1"} {
		if _, err := m.GetConnForURL("aaaa", url, localUDP(b, addr)); err == nil {
			t.Errorf("%s: got a connection", addr)
		}
	}
	// Without a host candidate it gets the requests that arrive at its base.
	foreign := udpConn(t, "127.0.0.1:0")
	req := bindingRequest(t, stun.NewUsername("aaaa:bbbb"))
	if _, err := foreign.WriteToUDPAddrPort(req, b.addr4()); err != nil {
		t.Fatal(err)
	}
	if got, _ := read(t, c); string(got) != string(req) {
		t.Errorf("got % x", got)
	}
	m.RemoveConnByUfrag("aaaa")
	if _, _, err := c.ReadFrom(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v after the fragment was removed", err)
	}

	// New sockets, new mappings.
	b.Close()
	b.start(t, 0)
	if _, known := m.NATHints(); known {
		t.Error("mappings of the previous sockets are left")
	}
	dead := udpConn(t, "127.0.0.1:0").LocalAddr()
	if _, err := m.GetXORMappedAddr(dead, 20*time.Millisecond); !errors.Is(err, errNoAnswer) {
		t.Errorf("got %v, want no answer", err)
	}
	start := time.Now()
	if _, err := m.GetXORMappedAddr(dead, patience); err == nil || time.Since(start) > patience/2 {
		t.Errorf("got %v after %v, want the remembered failure", err, time.Since(start))
	}
	start = time.Now()
	b.Close()
	if _, err := m.GetXORMappedAddr(one, patience); !errors.Is(err, net.ErrClosed) || time.Since(start) > patience/2 {
		t.Errorf("got %v after %v from a closed bind", err, time.Since(start))
	}
	if _, err := m.GetRelayedAddr(nil, 0); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
}

// TestBaseOfBefore has the route to the STUN servers move to another address of the host. A server that has a name may be any of those that were asked,
// and from the address of before none is any more.
func TestBaseOfBefore(t *testing.T) {
	b := openBind(t, loopbackOnly)
	m := b.Mux()
	var servers [2]*net.UDPAddr
	for i := range servers {
		servers[i], _ = stunServer(t, 0, 0)
		m.Expire(0)
		if _, err := m.GetXORMappedAddr(servers[i], patience); err != nil {
			t.Fatal(err)
		}
	}
	m.mu.Lock()
	m.mappings[servers[1].AddrPort()].base = netip.MustParseAddr("127.0.0.2")
	m.mu.Unlock()
	for _, other := range []func(){func() {}, func() { m.mapping(servers[0].AddrPort()) }} { // the first is being asked again
		other()
		if _, err := m.GetConnForURL("before", "stun:stun.example:3478", localUDP(b, "127.0.0.1")); err == nil {
			t.Error("got a connection at the address of before")
		}
	}
	if _, err := m.GetConnForURL("now", "stun:stun.example:3478", localUDP(b, "127.0.0.2")); err != nil {
		t.Error(err)
	}
}

// TestMappedAddrExpiresInBetween has another agent forget what a STUN server said, and ask anew, after an agent was told of it and before it makes
// its candidate.
func TestMappedAddrExpiresInBetween(t *testing.T) {
	b := openBind(t, loopbackOnly)
	m := b.Mux()
	server, _ := stunServer(t, 0, 0)
	if _, err := m.GetXORMappedAddr(server, patience); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ufrag string
		other func()
	}{
		{"expired", func() { m.Expire(0) }},
		{"asked", func() { m.mapping(server.AddrPort()) }},
	} {
		c.other()
		if _, err := m.GetConnForURL(c.ufrag, "stun:"+server.String(), localUDP(b, "127.0.0.1")); err != nil {
			t.Errorf("%s: %v", c.ufrag, err)
		}
	}
}

// TestServerReflexiveOnly connects agents that have no candidates but those that a STUN server tells them.
func TestServerReflexiveOnly(t *testing.T) {
	server, _ := stunServer(t, 0, 0)
	a, b := openBind(t, loopbackOnly), openBind(t, loopbackOnly)
	uri, err := stun.ParseURI("stun:" + server.String())
	if err != nil {
		t.Fatal(err)
	}
	var agents []*ice.Agent
	for _, x := range []*testBind{a, b} {
		agent, err := ice.NewAgent(&ice.AgentConfig{
			Urls:             []*stun.URI{uri},
			NetworkTypes:     []ice.NetworkType{ice.NetworkTypeUDP4},
			CandidateTypes:   []ice.CandidateType{ice.CandidateTypeServerReflexive},
			UDPMux:           x.Mux(),
			UDPMuxSrflx:      x.Mux(),
			MulticastDNSMode: ice.MulticastDNSModeDisabled,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { agent.Close() })
		agents = append(agents, agent)
	}
	ca, _ := connectAgents(t, agents[0], agents[1])
	if got := netip.MustParseAddrPort(ca.RemoteAddr().String()); got.Port() != b.port {
		t.Errorf("selected %s, want port %d", got, b.port)
	}
}
