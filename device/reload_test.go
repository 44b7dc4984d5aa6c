package device

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/inproc"
	"github.com/wice-go/wice-go/test/program"
)

// reload applies another file, and returns the changes in words.
func (e *end) reload(t *testing.T, lines, peers string) (string, error) {
	t.Helper()
	text := fmt.Sprintf("[Interface]\nPrivateKey = %s\nAddress = %s/24\n%s\n%s", e.private.Base64(), e.address, lines, peers)
	file, err := config.Parse("test.conf", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := e.Reload(file)
	if plan == nil {
		return "", err
	}
	var changes []string
	for _, c := range plan.Changes {
		changes = append(changes, c.String())
	}
	return strings.Join(changes, "; "), err
}

// want fails the test unless the reload makes these changes.
func (e *end) want(t *testing.T, changes, lines, peers string) {
	t.Helper()
	if got, err := e.reload(t, lines, peers); got != changes || err != nil {
		t.Fatalf("reload: got %q, %v, want %q", got, err, changes)
	}
}

// newPair joins two ends and brings them up.
func newPair(t *testing.T) (a, b *end) {
	t.Helper()
	var bus inproc.Bus
	ka, kb := key.NewPrivate(), key.NewPrivate()
	a = newEnd(t, &bus, ka, "10.7.0.1", peerSection(kb, "10.7.0.2", "#!wice Name = bob"))
	b = newEnd(t, &bus, kb, "10.7.0.2", peerSection(ka, "10.7.0.1", ""))
	for _, e := range []*end{a, b} {
		if err := e.Up(0); err != nil {
			t.Fatal(err)
		}
	}
	a.ping(t, b.address)
	a.until(t, "connected", connected)
	return a, b
}

// A peer keeps its session in all reloads but those that concern it.
func TestReloadSessions(t *testing.T) {
	a, b := newPair(t)
	bob := func(more string) string { return peerSection(b.private, "10.7.0.2", more) }
	pk := b.private.Public()
	session := a.lookup(pk).session
	a.want(t, "", "", bob("#!wice Name = bob"))
	carol := key.NewPrivate()
	a.want(t, "[Interface]: ICEServer, Lazy; peer robert: PersistentKeepalive, Name; peer carol added", "#!wice Lazy = true\n#!wice ICEServer = stun:127.0.0.1:9",
		bob("#!wice Name = robert\nPersistentKeepalive = 9")+peerSection(carol, "10.7.0.3", "#!wice Name = carol"))
	if a.lookup(pk).session != session || a.lookup(carol.Public()) == nil || !a.isLazy(pk) || len(a.iceServers()) != 1 {
		t.Error("the reload is not what the file says")
	}
	if got := a.PeerAddresses("robert"); len(got) != 1 || got[0] != b.address {
		t.Errorf("got %v for the new name", got)
	}
	a.want(t, "[Interface]: ICEServer, Lazy; peer carol removed; peer bob: PersistentKeepalive, Name", "", bob("#!wice Name = bob"))
	if s := a.until(t, "connected", connected); s.Peers[0].Restarts != 0 || a.lookup(pk).session != session {
		t.Errorf("the session is another one: %+v", s.Peers[0])
	}
	a.ping(t, b.address)
}

// Without ICE the peer is reached where it was, and with it again its session comes back.
func TestReloadICE(t *testing.T) {
	a, b := newPair(t)
	bob := func(more string) string { return peerSection(b.private, "10.7.0.2", "#!wice Name = bob\n"+more) }
	a.want(t, "peer bob: ICE", "", bob("#!wice ICE = off"))
	s := a.until(t, "plain", func(s *control.Status) bool { return s.Peers[0].State == control.StatePlain })
	if s.Peers[0].Path == nil || !strings.Contains(s.Peers[0].Reason, "ICE = off") {
		t.Errorf("got %+v, want it where it was", s.Peers[0])
	}
	a.ping(t, b.address)
	a.want(t, "peer bob: Endpoint", "", bob("#!wice ICE = off\nEndpoint = 127.0.0.1:9"))
	if s, err := a.Status(t.Context()); err != nil || s.Peers[0].Path == nil || s.Peers[0].Path.Remote.Address != netip.MustParseAddrPort("127.0.0.1:9") {
		t.Errorf("got %+v, %v, want the endpoint of the file", s, err)
	}
	a.want(t, "peer bob: Endpoint, ICE", "", bob(""))
	a.until(t, "connected again", connected)
	a.ping(t, b.address)
}

// A new key of its own begins everything anew, under which the peer knows it.
func TestReloadPrivateKey(t *testing.T) {
	a, b := newPair(t)
	a.private = key.NewPrivate()
	b.want(t, "peer "+b.peerKeys(t)[0]+" removed; peer "+a.private.Public().String()+" added", "", peerSection(a.private, "10.7.0.1", ""))
	a.want(t, "[Interface]: PrivateKey", "", peerSection(b.private, "10.7.0.2", "#!wice Name = bob"))
	a.until(t, "connected with the new key", connected)
	a.ping(t, b.address)
	if s, err := a.Status(t.Context()); err != nil || s.PublicKey != a.private.Public().String() {
		t.Errorf("got %+v, %v", s, err)
	}
}

func (e *end) peerKeys(t *testing.T) (keys []string) {
	t.Helper()
	s, err := e.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Peers {
		keys = append(keys, p.PublicKey)
	}
	return keys
}

// A port that somebody has leaves all as it was, peers included.
func TestReloadPort(t *testing.T) {
	a, b := newPair(t)
	port, err := program.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	before := a.uapi(t, "get=1\n\n")
	_, err = a.reload(t, fmt.Sprintf("ListenPort = %d", port), "")
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("ListenPort = %d: ", port)) || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("got %v", err)
	}
	if got, want := a.bind.Port(), before; !strings.Contains(want, fmt.Sprintf("listen_port=%d\n", got)) || len(a.peerKeys(t)) != 1 {
		t.Errorf("got port %d and peers %v after %s", got, a.peerKeys(t), want)
	}
	a.ping(t, b.address)
	taken.Close()
	a.want(t, "[Interface]: ListenPort", fmt.Sprintf("ListenPort = %d", port), peerSection(b.private, "10.7.0.2", "#!wice Name = bob"))
	a.ping(t, b.address)
	if got := a.bind.Port(); int(got) != port {
		t.Errorf("got port %d, want %d", got, port)
	}
}

// An endpoint with a name is looked up from the reload on that names it to the one that does not.
func TestReloadNamedEndpoint(t *testing.T) {
	names := newNameServer(t)
	first, second := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	names.answer.Store(&first)
	bob := key.NewPrivate()
	peer := func(endpoint string) string { return peerSection(bob, "10.7.0.2", "#!wice Name = bob\n"+endpoint) }
	a := newEndWith(t, key.NewPrivate(), "10.7.0.1", peer(""), Options{Resolver: names.resolver()})
	if err := a.Up(0); err != nil {
		t.Fatal(err)
	}
	at := func(want string) {
		t.Helper()
		a.until(t, want, func(s *control.Status) bool {
			return s.Peers[0].Path != nil && s.Peers[0].Path.Remote.Address.String() == want
		})
	}
	a.want(t, "peer bob: Endpoint", "", peer("Endpoint = peer.example.:7"))
	at("192.0.2.1:7")
	a.want(t, "", "", peer("Endpoint = peer.example.:7"))
	names.answer.Store(&second)
	a.want(t, "peer bob: Endpoint", "", peer("Endpoint = peer.example.:8"))
	at("192.0.2.2:8")
	a.want(t, "peer bob: Endpoint", "", peer("Endpoint = 192.0.2.3:9"))
	at("192.0.2.3:9")
	if len(a.named) != 0 {
		t.Errorf("%d names are still followed", len(a.named))
	}
	a.want(t, "peer bob: Endpoint", "", peer("Endpoint = peer.example.:7"))
	a.want(t, "peer bob removed", "", "")
	if len(a.named) != 0 {
		t.Errorf("the name of a peer that is gone is still followed")
	}
}

func TestReloadClosed(t *testing.T) {
	a := newEnd(t, new(inproc.Bus), key.NewPrivate(), "10.7.0.1", "")
	a.Close()
	if _, err := a.reload(t, "", ""); !errors.Is(err, errClosed) {
		t.Errorf("got %v", err)
	}
	if err := a.SetMark(1); !errors.Is(err, errClosed) {
		t.Errorf("got %v", err)
	}
}

// TestReloadGoesOn reads a file again that has not changed since signaling could not start with it.
func TestReloadGoesOn(t *testing.T) {
	var trouble error
	list := new(listBackend)
	bob := key.NewPrivate().Public()
	file := func() *config.Config {
		return &config.Config{Interface: config.Interface{PrivateKey: key.NewPrivate(), Lazy: true}, Peers: []config.Peer{{PublicKey: bob}}}
	}
	d := newListed(t, file(), list, &trouble)
	if err := d.Up(0); err != nil {
		t.Fatal(err)
	}
	trouble = errors.New("trouble")
	list.peers = nil
	other := file()
	if _, err := d.Reload(other); !errors.Is(err, trouble) {
		t.Fatalf("got %v, want %v", err, trouble)
	}
	trouble = nil
	if plan, err := d.Reload(other); err != nil || len(plan.Changes) > 0 {
		t.Errorf("got %v and %v, want no change", plan, err)
	}
	if !list.peers[bob] {
		t.Error("signaling has no peer")
	}
}
