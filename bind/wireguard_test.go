package bind

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/ice/v2"
	"github.com/wice-go/wice-go/proto/key"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"
)

// node is a whole WireGuard device over a bind.
type node struct {
	bind *Bind
	dev  *device.Device
	tun  *tuntest.ChannelTUN
	key  key.Private
	ip   netip.Addr
}

func newNode(t *testing.T, n byte, o Options) *node {
	t.Helper()
	b := New(o)
	tun := tuntest.NewChannelTUN()
	d := device.NewDevice(tun.TUN(), b, &device.Logger{Verbosef: device.DiscardLogf, Errorf: t.Logf})
	k := key.NewPrivate()
	if err := d.IpcSet(fmt.Sprintf("private_key=%x\nlisten_port=0\n", k[:])); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Close()
		b.Shutdown()
	})
	return &node{bind: b, dev: d, tun: tun, key: k, ip: netip.AddrFrom4([4]byte{10, 9, 0, n})}
}

// know adds the peer to the node's device. With an address the peer is a plain one, else one that ICE connects.
func (n *node) know(t *testing.T, peer *node, endpoint netip.AddrPort) *PeerEndpoint {
	t.Helper()
	pk := peer.key.Public()
	cfg := fmt.Sprintf("public_key=%x\nallowed_ip=%s/32\n", pk[:], peer.ip)
	if endpoint.IsValid() {
		cfg += "endpoint=" + endpoint.String() + "\n"
	}
	if err := n.dev.IpcSet(cfg); err != nil {
		t.Fatal(err)
	}
	e := n.bind.Peer(pk)
	if !endpoint.IsValid() {
		n.dev.LookupPeer(device.NoisePublicKey(pk)).SetEndpointFromPacket(e)
	}
	return e
}

func (n *node) addr() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), n.bind.Port())
}

// ping sends an echo request through the tunnel and waits for it at the other end.
func (n *node) ping(t *testing.T, to *node) {
	t.Helper()
	msg := tuntest.Ping(to.ip, n.ip)
	n.tun.Outbound <- msg
	select {
	case got := <-to.tun.Inbound:
		if !bytes.Equal(got, msg) {
			t.Fatalf("got % x, want % x", got, msg)
		}
	case <-time.After(patience):
		t.Fatalf("no ping from %s to %s within %v", n.ip, to.ip, patience)
	}
}

func TestWireGuardOverPaths(t *testing.T) {
	a, b := newNode(t, 1, Options{}), newNode(t, 2, Options{})
	ea, eb := a.know(t, b, netip.AddrPort{}), b.know(t, a, netip.AddrPort{})

	// The first packet finds no path: the initiation waits, and the session is asked for.
	wanted := make(chan struct{}, 16)
	ea.SetWanted(func() { wanted <- struct{}{} })
	msg := tuntest.Ping(b.ip, a.ip)
	a.tun.Outbound <- msg
	select {
	case <-wanted:
	case <-time.After(patience):
		t.Fatal("the callback was not called")
	}
	start := time.Now()
	ea.SetPath(NewDirectPath(netip.MustParseAddr("127.0.0.1"), b.addr()))
	ea.FlushHeld()
	select {
	case <-b.tun.Inbound:
	case <-time.After(patience):
		t.Fatal("the held packet did not arrive")
	}
	// WireGuard itself would have repeated the initiation after five seconds.
	if d := time.Since(start); d > heldLifetime-time.Second/2 {
		t.Errorf("the tunnel was up %v after the first path: the initiation was not flushed", d)
	}
	eb.SetPath(NewDirectPath(netip.MustParseAddr("127.0.0.1"), a.addr()))
	b.dev.LookupPeer(device.NoisePublicKey(a.key.Public())).SetEndpointFromPacket(eb)
	b.ping(t, a)

	// Paths change underneath; nothing is lost.
	ea.SetPath(NewDirectPath(netip.MustParseAddr("127.0.0.2"), b.addr()))
	for range 5 {
		a.ping(t, b)
		b.ping(t, a)
	}
}

func TestPlainPeerRoams(t *testing.T) {
	a, b := newNode(t, 1, Options{}), newNode(t, 2, Options{})
	a.know(t, b, netip.AddrPort{})
	b.know(t, a, a.addr())
	b.ping(t, a)
	a.ping(t, b)
	// The port of b changes; a follows after the next packet from there.
	if err := b.dev.IpcSet("listen_port=0\n"); err != nil {
		t.Fatal(err)
	}
	b.ping(t, a)
	a.ping(t, b)
}

// newAgent returns an ICE agent on the mux that reports its candidates to the other one.
func newAgent(t *testing.T, m *Mux, types ...ice.CandidateType) *ice.Agent {
	t.Helper()
	a, err := ice.NewAgent(&ice.AgentConfig{
		NetworkTypes:     []ice.NetworkType{ice.NetworkTypeUDP4, ice.NetworkTypeUDP6},
		CandidateTypes:   types,
		UDPMux:           m,
		UDPMuxSrflx:      m,
		MulticastDNSMode: ice.MulticastDNSModeDisabled,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// connectAgents runs ICE between two agents and returns their connections.
func connectAgents(t *testing.T, a, b *ice.Agent) (ca, cb *ice.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, p := range [][2]*ice.Agent{{a, b}, {b, a}} {
		if err := p[0].OnCandidate(func(c ice.Candidate) {
			if c == nil {
				return
			}
			r, err := ice.UnmarshalCandidate(c.Marshal())
			if err != nil {
				t.Error(err)
				return
			}
			if err := p[1].AddRemoteCandidate(r); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	ua, pa, _ := a.GetLocalUserCredentials()
	ub, pb, _ := b.GetLocalUserCredentials()
	for _, g := range []*ice.Agent{a, b} {
		if err := g.GatherCandidates(); err != nil {
			t.Fatal(err)
		}
	}
	accepted := make(chan error, 1)
	go func() {
		var err error
		cb, err = b.Accept(ctx, ua, pa)
		accepted <- err
	}()
	ca, err := a.Dial(ctx, ub, pb)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	return ca, cb
}

// TestICEOverSharedSockets connects two agents over the sockets that WireGuard uses at the same time, and moves the tunnel to the
// selected pair.
func TestICEOverSharedSockets(t *testing.T) {
	o := Options{IncludeLoopback: true, ExcludeInterface: func(name string) bool { return name != "lo" }}
	a, b := newNode(t, 1, o), newNode(t, 2, o)
	ea, eb := a.know(t, b, netip.AddrPort{}), b.know(t, a, netip.AddrPort{})
	ea.SetPath(NewDirectPath(netip.Addr{}, b.addr()))
	eb.SetPath(NewDirectPath(netip.Addr{}, a.addr()))
	a.ping(t, b)

	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				a.ping(t, b)
			}
		}
	}()
	ca, cb := connectAgents(t, newAgent(t, a.bind.Mux(), ice.CandidateTypeHost), newAgent(t, b.bind.Mux(), ice.CandidateTypeHost))
	close(stop)
	<-stopped

	if got := netip.MustParseAddrPort(ca.RemoteAddr().String()); got.Port() != b.bind.Port() {
		t.Errorf("selected remote %s, want port %d", got, b.bind.Port())
	}
	for _, p := range []struct {
		e *PeerEndpoint
		c *ice.Conn
	}{{ea, ca}, {eb, cb}} {
		l, r := netip.MustParseAddrPort(p.c.LocalAddr().String()), netip.MustParseAddrPort(p.c.RemoteAddr().String())
		p.e.SetPath(NewDirectPath(l.Addr(), r))
	}
	a.ping(t, b)
	b.ping(t, a)
	if got, want := ea.DstToString(), ca.RemoteAddr().String(); got != want {
		t.Errorf("endpoint %s, want %s", got, want)
	}
}
