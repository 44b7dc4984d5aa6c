package device

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.zx2c4.com/wireguard/conn"
	wgdevice "golang.zx2c4.com/wireguard/device"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/inproc"
	"github.com/wice-go/wice-go/signal/session"
)

// listBackend carries nothing, and knows who the peers are.
type listBackend struct{ peers map[key.Public]bool }

func (b *listBackend) SetPeers(peers []key.Public) {
	b.peers = make(map[key.Public]bool)
	for _, k := range peers {
		b.peers[k] = true
	}
}

func (b *listBackend) Publish(context.Context, key.Public, []byte) error {
	return signal.ErrUnknownPeer
}
func (b *listBackend) Status() signal.Status { return signal.Status{Backend: "list"} }
func (b *listBackend) Close() error          { return nil }

// newListed makes a device whose signaling is the list, or can't start while there is trouble.
func newListed(t *testing.T, c *config.Config, list *listBackend, trouble *error) *Device {
	t.Helper()
	d, err := New(Options{
		Config: c,
		Tun:    newDownTUN(),
		Backends: []Backend{{Name: "list", Factory: func(context.Context, signal.Env, []url.Values) (signal.Backend, error) {
			return list, *trouble
		}}},
		Logger: discard,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// changerBackend is one that is told of changes.
type changerBackend struct{ listBackend }

func (b *changerBackend) ChangePeers(added, removed []key.Public) {
	for _, k := range removed {
		delete(b.peers, k)
	}
	for _, k := range added {
		b.peers[k] = true
	}
}

// tableState is all that follows WireGuard's table of peers.
type tableState struct {
	Allowed   map[string][]netip.Prefix // by peers, as all that follows
	Static    map[string]string
	Sessions  map[string]string // the session itself, and what the endpoint sends to
	Clamped   map[string]string // whose limit it is
	Routes    map[netip.Prefix]string
	Signaling []map[key.Public]bool
	Endpoints int // in the bind
}

func (d *Device) tableState(backends ...*listBackend) tableState {
	s := tableState{
		Allowed: map[string][]netip.Prefix{}, Static: map[string]string{}, Sessions: map[string]string{}, Clamped: map[string]string{},
		Routes: map[netip.Prefix]string{}, Endpoints: d.bind.Held().Peers,
	}
	for pk, m := range d.table.members {
		s.Allowed[pk.Hex()] = slices.Collect(m.prefixesLocked())
		if m.static.IsValid() {
			s.Static[pk.Hex()] = m.static.String()
		}
		if c := m.clamp.Load(); c != nil {
			s.Clamped[pk.Hex()] = fmt.Sprintf("%p", c)
		}
	}
	for p, a := range d.table.routes.all() {
		s.Routes[p] = a.owner.key.Hex()
	}
	for pk, p := range d.peers {
		s.Sessions[pk.Hex()] = fmt.Sprintf("%p %s", p, p.endpoint.DstToString())
	}
	if d.router != nil {
		for _, b := range backends {
			s.Signaling = append(s.Signaling, maps.Clone(b.peers))
		}
	}
	return s
}

// tableDiff compares the table with WireGuard's own, as long as nobody sends to the device.
func (d *Device) tableDiff(t *testing.T) string {
	t.Helper()
	type row struct {
		Allowed []netip.Prefix
		Static  string
	}
	state, err := d.readState()
	if err != nil {
		t.Fatal(err)
	}
	want, got := make(map[string]row), make(map[string]row)
	for _, p := range state.peers {
		want[p.publicKey.Hex()] = row{p.allowedIPs, p.endpoint}
	}
	for pk, m := range d.table.members {
		r := row{Allowed: slices.Collect(m.prefixesLocked())}
		if m.static.IsValid() {
			r.Static = netip.AddrPortFrom(m.static.Addr().Unmap(), m.static.Port()).String()
		}
		got[pk.Hex()] = r
	}
	return cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }))
}

// TestTableFollows makes set operations at random, and checks after each that what follows WireGuard's table is what reconciling all peers makes
// of it, and what follows from the table of wireguard-go's own device after the same operations.
func TestTableFollows(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { testTableFollows(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

func testTableFollows(t *testing.T, random *rand.Rand) {
	privates := []key.Private{key.NewPrivate(), key.NewPrivate(), {}}
	off := key.NewPrivate().Public()
	publics := []key.Public{off, {1}, privates[0].Public(), privates[1].Public()} // {1} is nobody's
	for range 5 {
		publics = append(publics, key.NewPrivate().Public())
	}

	list, changer := new(listBackend), new(changerBackend)
	backend := func(b signal.Backend) Backend {
		return Backend{Name: "list", Factory: func(context.Context, signal.Env, []url.Values) (signal.Backend, error) {
			b.SetPeers(nil)
			return b, nil
		}}
	}
	d, err := New(Options{
		Config:   &config.Config{Interface: config.Interface{PrivateKey: privates[0], Lazy: true}, Peers: []config.Peer{{PublicKey: off, ICE: config.ICEOff}}},
		Tun:      newDownTUN(),
		Backends: []Backend{backend(list), backend(changer)},
		Logger:   discard,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Up(0); err != nil {
		t.Fatal(err)
	}
	plain := wgdevice.NewDevice(newDownTUN(), conn.NewDefaultBind(), &wgdevice.Logger{Verbosef: wgdevice.DiscardLogf, Errorf: wgdevice.DiscardLogf})
	defer plain.Close()
	if err := plain.IpcSet("private_key=" + privates[0].Hex() + "\npublic_key=" + off.Hex() + "\n"); err != nil {
		t.Fatal(err)
	}

	up := true
	for range 300 {
		if random.IntN(20) == 0 {
			up = !up
			d.uapiMu.Lock()
			if d.stopLocked(); up {
				err = d.startLocked()
			}
			d.uapiMu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
		}
		text := randomSet(random, privates, publics)
		got, want := d.ipcSet([]byte(text)), plain.IpcSet(text)
		if (got == nil) != (want == nil) {
			t.Fatalf("%.2000s: got %v, want %v", text, got, want)
		}
		after := d.tableState(list, &changer.listBackend)

		var r stateReader
		if err := plain.IpcGetOperation(&r); err != nil {
			t.Fatal(err)
		}
		allowed, static, sessions, signaling := map[string][]netip.Prefix{}, map[string]string{}, map[string]bool{}, map[key.Public]bool{}
		for _, p := range r.state.peers {
			pk := p.publicKey.Hex()
			allowed[pk] = p.allowedIPs
			if p.endpoint != "" {
				static[pk] = p.endpoint
			}
			if p.publicKey != off && p.publicKey != publics[1] && !r.state.privateKey.IsZero() {
				sessions[pk], signaling[p.publicKey] = true, true
			}
		}
		compare := func(what string, got, want any) {
			t.Helper()
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Fatalf("after\n%.2000s\n%s: (-want +got)\n%s", text, what, diff)
			}
		}
		compare("allowed IPs", after.Allowed, allowed)
		compare("endpoints", after.Static, static)
		owners := map[netip.Prefix]string{}
		for pk, of := range allowed {
			for _, p := range of {
				owners[p] = pk
			}
		}
		compare("routes", after.Routes, owners)
		compare("sessions", slices.Sorted(maps.Keys(after.Sessions)), slices.Sorted(maps.Keys(sessions)))
		compare("limits", slices.Sorted(maps.Keys(after.Clamped)), slices.Sorted(maps.Keys(sessions)))
		compare("endpoints in the bind", after.Endpoints, len(sessions))
		for _, peers := range after.Signaling {
			compare("signaling", peers, signaling)
		}
		for pk, p := range after.Sessions {
			if at := static[pk]; at != "" && !strings.HasSuffix(p, at) {
				t.Fatalf("after\n%.2000s\n%s has an endpoint that sends to %s, want %s", text, pk, p, at)
			}
		}

		d.uapiMu.Lock()
		d.whole = true
		err = d.reconcile()
		d.uapiMu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		compare("what reconciling all peers changes", d.tableState(list, &changer.listBackend), after)
	}
}

// randomSet returns a set operation, which may fail.
func randomSet(random *rand.Rand, privates []key.Private, publics []key.Public) string {
	var b strings.Builder
	pick := func(n int) bool { return random.IntN(n) == 0 }
	line := func(format string, args ...any) {
		fmt.Fprintf(&b, format, args...)
		if pick(20) {
			b.WriteString("\r")
		}
		b.WriteString("\n")
	}
	if pick(20) {
		line("replace_peers=true")
	}
	for pick(8) {
		line("private_key=%s", privates[random.IntN(len(privates))].Hex())
	}
	if pick(20) {
		line("fwmark=0")
	}
	for range random.IntN(4) {
		pk := publics[random.IntN(len(publics))].Hex()
		if pick(8) {
			pk = strings.ToUpper(pk)
		}
		line("public_key=%s", pk)
		for range random.IntN(6) {
			prefix := []string{"10.0.0.%d/32", "10.0.0.%d/31", "10.0.0.%d/24", "0.0.0.%d/0", "fd00::%d/128", "fd00::%d/127", "::ffff:10.0.0.%d/128", "::ffff:10.0.0.%d/64"}[random.IntN(8)]
			prefix = fmt.Sprintf(prefix, random.IntN(4))
			switch random.IntN(12) {
			case 0:
				line("remove=true")
			case 1:
				line("update_only=true")
			case 2:
				line("replace_allowed_ips=true")
			case 3, 4, 5, 6:
				line("allowed_ip=%s", prefix)
			case 7:
				line("allowed_ip=-%s", prefix)
			case 8, 9:
				line("endpoint=127.0.0.1:%d", 1+random.IntN(9))
			case 10:
				line("preshared_key=%s", key.NewPreshared().Hex())
			case 11:
				if pick(5) {
					line("%s", []string{"allowed_ip=10.0.0.1/33", "allowed_ip=--10.0.0.1/32", "endpoint=nowhere", "remove=false", "remove", "public_key=0", "replace_peers=true", "nonsense",
						"endpoint=127.0.0.1:" + strings.Repeat("0", bufio.MaxScanTokenSize) + "9"}[random.IntN(9)])
				}
			}
		}
	}
	if pick(20) {
		line("") // and no more after it
		line("replace_peers=true")
	}
	if pick(8) {
		return strings.TrimSuffix(b.String(), "\n") // a client that ends its input instead
	}
	return b.String()
}

// TestOwnKeyForAMoment makes a peer the interface itself and then another one again in a single operation: it is a new peer.
func TestOwnKeyForAMoment(t *testing.T) {
	private, bob := key.NewPrivate(), key.NewPrivate()
	d, err := New(Options{Config: &config.Config{Interface: config.Interface{PrivateKey: private}}, Tun: newDownTUN(), Logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	peer := "public_key=" + bob.Public().Hex() + "\n"
	for _, text := range []string{
		peer + "endpoint=127.0.0.1:9\nallowed_ip=10.0.0.1/32\n",
		"private_key=" + bob.Hex() + "\nprivate_key=" + private.Hex() + "\n" + peer,
	} {
		if err := d.ipcSet([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if got := d.table.static(bob.Public()); got.IsValid() || d.Routed(netip.MustParseAddr("10.0.0.1")) {
		t.Errorf("got the endpoint %s, want nothing of the former peer", got)
	}
}

// TestReconcileGoesOn has an operation's peers get their sessions by the next operation, whatever that is about, where something was in the way.
// One that fails has all peers looked at.
func TestReconcileGoesOn(t *testing.T) {
	trouble := errors.New("trouble")
	list := new(listBackend)
	d := newListed(t, new(config.Config), list, &trouble)
	if err := d.Up(0); err != nil {
		t.Fatal(err)
	}
	bob, carol := key.NewPrivate().Public(), key.NewPrivate().Public()
	if err := d.ipcSet([]byte("private_key=" + key.NewPrivate().Hex() + "\npublic_key=" + bob.Hex() + "\n")); !errors.Is(err, trouble) {
		t.Fatalf("got %v, want %v", err, trouble)
	}
	trouble = nil
	if err := d.ipcSet([]byte("public_key=" + carol.Hex() + "\n")); err != nil {
		t.Fatal(err)
	}
	if !list.peers[bob] || !list.peers[carol] {
		t.Errorf("got the peers %v, want both", list.peers)
	}
	eventually(t, "both sessions start", func() bool {
		return d.lookup(bob).session.Status().State != session.Idle && d.lookup(carol).session.Status().State != session.Idle
	})
	list.SetPeers(nil)
	if err := d.ipcSet([]byte("nonsense\n")); err == nil || !list.peers[bob] {
		t.Errorf("an operation that fails: got %v and the peers %v", err, list.peers)
	}
}

// TestUpGoesOn has an interface come up that was configured before and whose signaling can't start, as a drop-in one does: the next operation starts
// all the same what had to wait.
func TestUpGoesOn(t *testing.T) {
	trouble := errors.New("trouble")
	d := newListed(t, new(config.Config), new(listBackend), &trouble)
	bob := key.NewPrivate().Public()
	if err := d.ipcSet([]byte("private_key=" + key.NewPrivate().Hex() + "\npublic_key=" + bob.Hex() + "\n")); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(0); !errors.Is(err, trouble) {
		t.Fatalf("got %v, want %v", err, trouble)
	}
	trouble = nil
	if err := d.ipcSet([]byte("fwmark=0\n")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the session starts", func() bool { return d.lookup(bob).session.Status().State != session.Idle })
	if !d.started {
		t.Error("nobody looks whether the network changes")
	}
}

// TestReconcileCatchesUp has what was touched by operations that sessions could not follow be made good by the first one that they can.
func TestReconcileCatchesUp(t *testing.T) {
	d, err := New(Options{
		Config:   &config.Config{Interface: config.Interface{PrivateKey: key.NewPrivate(), Lazy: true, NetworkTypes: []proto.NetworkType{proto.TCP4}}},
		Tun:      newDownTUN(),
		Backends: inprocBackend(new(inproc.Bus)),
		Logger:   discard,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	bob, own := key.NewPrivate().Public(), key.NewPrivate()
	carol := "public_key=" + key.NewPrivate().Public().Hex() + "\n"
	if err := d.ipcSet([]byte("public_key=" + bob.Hex() + "\npublic_key=" + own.Public().Hex() + "\n")); err != nil {
		t.Fatal(err)
	}
	fail := func(text string) {
		t.Helper()
		if err := d.ipcSet([]byte(text)); err == nil {
			t.Fatalf("%s: got no error", text)
		}
	}
	fail("fwmark=7\n") // which ICE over TCP alone can't have
	fail("public_key=" + bob.Hex() + "\nendpoint=127.0.0.1:9\n")
	fail(carol)
	fail(carol + "remove=true\n")
	if err := d.ipcSet([]byte("fwmark=0\n")); err != nil {
		t.Fatal(err)
	}
	if got := d.lookup(bob).endpoint.DstToString(); got != "127.0.0.1:9" || d.bind.Held().Peers != 2 {
		t.Errorf("got packets to %s and %d endpoints in the bind, want 127.0.0.1:9 and 2", got, d.bind.Held().Peers)
	}
	fail("fwmark=7\nprivate_key=" + own.Hex() + "\n")
	if d.table.has(own.Public()) {
		t.Error("the table has the interface itself")
	}
}
