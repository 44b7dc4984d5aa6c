package device

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	wgdevice "golang.zx2c4.com/wireguard/device"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/inproc"
	"github.com/wice-go/wice-go/tun/netstack"
)

// fakeLink is a TUN whose link the test brings up and down.
type fakeLink struct {
	wgtun.Device
	events chan wgtun.Event
	once   sync.Once
}

func (f *fakeLink) Events() <-chan wgtun.Event { return f.events }

func (f *fakeLink) Close() error {
	f.once.Do(func() { close(f.events) })
	return f.Device.Close()
}

// A drop-in device takes nothing of the file but what wice-go adds, follows the link, and begins anew with another mark.
func TestDropInFollowsLink(t *testing.T) {
	bus, alice, bob := new(inproc.Bus), key.NewPrivate(), key.NewPrivate()
	other := newEnd(t, bus, bob, "10.0.0.2", peerSection(alice, "10.0.0.1", ""))
	if err := other.Up(0); err != nil {
		t.Fatal(err)
	}
	stack, err := netstack.New([]netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	link := &fakeLink{Device: stack.Device(), events: make(chan wgtun.Event)}
	cfg := &config.Config{Peers: []config.Peer{{PublicKey: bob.Public(), Name: "bob"}}}
	dev, err := New(Options{Name: "test", Config: cfg, DropIn: true, Tun: link, TunKind: "netstack", Ping: stack.Ping, Backends: inprocBackend(bus), IncludeLoopback: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dev.Close)
	e := &end{Device: dev, stack: stack}
	if err := dev.Up(0); err != nil {
		t.Fatal(err)
	}
	if s, err := dev.Status(t.Context()); err != nil || len(s.Peers) != 0 {
		t.Fatalf("got the peers %v, %v before one was set", s.Peers, err)
	}
	if err := dev.ipcSet(fmt.Appendf(nil, "private_key=%s\npublic_key=%s\nallowed_ip=10.0.0.2/32\n", alice.Hex(), bob.Public().Hex())); err != nil {
		t.Fatal(err)
	}
	connected := func(s *control.Status) bool { return len(s.Peers) == 1 && s.Peers[0].State == control.StateConnected }
	if s := e.until(t, "connected before the link was ever up", connected); s.Peers[0].Name != "bob" {
		t.Errorf("got the name %q", s.Peers[0].Name)
	}
	e.ping(t, other.address)

	link.events <- wgtun.EventUp
	link.events <- wgtun.EventDown
	port := func(open bool) {
		t.Helper()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(patience); (dev.bind.Port() != 0) != open; <-tick.C {
			if time.Now().After(deadline) {
				t.Fatalf("the sockets are not open: %t", open)
			}
		}
	}
	port(false)
	reason := func(want string) {
		t.Helper()
		if s, err := dev.Status(t.Context()); err != nil || !strings.Contains(s.Peers[0].Reason, want) {
			t.Errorf("got %+v, %v, want the reason %q", s, err, want)
		}
	}
	reason("the interface is down")
	link.events <- wgtun.EventUp
	port(true)
	e.until(t, "connected after the link was down", connected)
	e.ping(t, other.address)

	for i, private := range []key.Private{{}, alice} {
		want := []string{"no private key", ""}[i]
		if err := dev.ipcSet(fmt.Appendf(nil, "private_key=%s\n", private.Hex())); err != nil {
			t.Fatal(err)
		}
		reason(want)
		if s, err := dev.Status(t.Context()); err != nil || (s.PublicKey == "") != private.IsZero() {
			t.Errorf("got the public key %q, %v", s.PublicKey, err)
		}
	}
	// The file again: what it adds, though it has no peers that are wanted, and keeps those that it does not have.
	reload := func(want string, peers ...config.Peer) {
		t.Helper()
		plan, err := dev.Reload(&config.Config{Peers: peers})
		if err != nil || fmt.Sprint(plan.Changes) != want {
			t.Fatalf("reload: got %v, %v, want %s", plan, err, want)
		}
	}
	session := dev.lookup(bob.Public()).session
	reload("[peer robert: Name]", config.Peer{PublicKey: bob.Public(), Name: "robert"}, config.Peer{PublicKey: alice.Public()})
	if s := e.until(t, "connected after a reload", connected); s.Peers[0].Name != "robert" || dev.lookup(bob.Public()).session != session {
		t.Errorf("got the name %q, and a session that is another one", s.Peers[0].Name)
	}
	before := dev.lookup(bob.Public()).endpoint
	reload("[peer robert: ICE]", config.Peer{PublicKey: bob.Public(), Name: "robert", ICE: config.ICEOff})
	dev.wg.LookupPeer(wgdevice.NoisePublicKey(bob.Public())).SetEndpointFromPacket(before) // as a packet does that was received before
	e.until(t, "plain", func(s *control.Status) bool { return s.Peers[0].State == control.StatePlain })
	e.ping(t, other.address)
	reload(fmt.Sprintf("[peer %s: Name, ICE]", bob.Public()))
	e.until(t, "connected without what the file said", connected)
	e.ping(t, other.address)
}
