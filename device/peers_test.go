package device

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/inproc"
	"github.com/wice-go/wice-go/signal/session"
)

// initiation is the first byte of a WireGuard handshake initiation.
const initiation = 1

// TestWhoBeginsHandshake gives one end a path to a socket of the test, and looks when the initiation arrives there.
func TestWhoBeginsHandshake(t *testing.T) {
	small, great := key.NewPrivate(), key.NewPrivate()
	if small.Public().Compare(great.Public()) > 0 {
		small, great = great, small
	}
	for _, c := range []struct {
		name          string
		local, remote key.Private
		yields        bool
	}{
		{"controlling", small, great, false},
		{"controlled", great, small, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			remote, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer remote.Close()
			a := newEnd(t, new(inproc.Bus), c.local, "10.7.0.1", peerSection(c.remote, "10.7.0.2", "#!wice Lazy = true"))
			if err := a.Up(0); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			addr := netip.MustParseAddrPort(remote.LocalAddr().String())
			a.onPath(a.lookup(c.remote.Public()), &session.Path{Direct: true, Generation: 1, Remote: session.CandidateInfo{Address: addr}})
			if got := len(a.waiting()) == 1; got != c.yields {
				t.Errorf("yields: got %v, want %v", got, c.yields)
			}
			buf := make([]byte, 2000)
			remote.SetReadDeadline(start.Add(patience))
			n, _, err := remote.ReadFrom(buf)
			for err == nil && stun.IsMessage(buf[:n]) { // the path's MTU is being looked for
				n, _, err = remote.ReadFrom(buf)
			}
			if err != nil || buf[0] != initiation {
				t.Fatalf("got %x, %v, want an initiation", buf[:n], err)
			}
			if took := time.Since(start); c.yields && took < yieldTime {
				t.Errorf("the initiation came after %v, want %v at the least", took, yieldTime)
			}
		})
	}
}

// waiting returns the peers that were left the handshake.
func (e *end) waiting() []yielded {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.yielded
}

func (e *end) set(t *testing.T, lines string) {
	t.Helper()
	if got := e.uapi(t, "set=1\n"+lines+"\n"); got != "errno=0\n" {
		t.Fatalf("set %q: got %q", lines, got)
	}
}

// TestNewPrivateKey changes the key of one end while it is up: it signals by the new one from then on.
func TestNewPrivateKey(t *testing.T) {
	var bus inproc.Bus
	before, after, kb := key.NewPrivate(), key.NewPrivate(), key.NewPrivate()
	a := newEnd(t, &bus, before, "10.7.0.1", peerSection(kb, "10.7.0.2", ""))
	b := newEnd(t, &bus, kb, "10.7.0.2", peerSection(after, "10.7.0.1", ""))
	for _, e := range []*end{a, b} {
		if err := e.Up(0); err != nil {
			t.Fatal(err)
		}
	}
	a.set(t, "private_key="+after.Hex()+"\n")
	b.ping(t, a.address)
	a.until(t, "connected", connected)
}

// TestStaticEndpointSurvives checks what becomes of an endpoint that was set by hand.
func TestStaticEndpointSurvives(t *testing.T) {
	pk := key.NewPrivate().Public()
	peer := "public_key=" + pk.Hex() + "\n"
	for _, c := range []struct {
		name, set string
		want      bool
	}{
		{"new private key", "private_key=" + key.NewPrivate().Hex() + "\n", true},
		{"no private key for a while", "private_key=" + strings.Repeat("0", 64) + "\n\nset=1\nprivate_key=" + key.NewPrivate().Hex() + "\n", true},
		{"something else", peer + "allowed_ip=10.7.0.2/32\n", true},
		{"removed and added", peer + "remove=true\n" + peer, false},
		{"all replaced", "replace_peers=true\n" + peer, false},
		{"all replaced, endpoint too", "replace_peers=true\n" + peer + "endpoint=192.0.2.1:7\n", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newEnd(t, new(inproc.Bus), key.NewPrivate(), "10.7.0.1", "")
			if err := a.Up(0); err != nil {
				t.Fatal(err)
			}
			a.set(t, peer+"endpoint=192.0.2.1:7\n")
			for _, text := range strings.Split(c.set, "\n\nset=1\n") {
				a.set(t, strings.TrimSuffix(text, "\n")+"\n")
			}
			got := a.uapi(t, "get=1\n\n")
			if strings.Contains(got, "endpoint=192.0.2.1:7\n") != c.want {
				t.Errorf("got %q, want the endpoint: %v", got, c.want)
			}
		})
	}
}

// TestPeersReplaced sets the same peer anew, as "wg setconf" does, under a path of ICE: WireGuard finds its way without the other end's help.
func TestPeersReplaced(t *testing.T) {
	var bus inproc.Bus
	ka, kb := key.NewPrivate(), key.NewPrivate()
	a := newEnd(t, &bus, ka, "10.7.0.1", peerSection(kb, "10.7.0.2", ""))
	b := newEnd(t, &bus, kb, "10.7.0.2", peerSection(ka, "10.7.0.1", ""))
	for _, e := range []*end{a, b} {
		if err := e.Up(0); err != nil {
			t.Fatal(err)
		}
	}
	a.ping(t, b.address)
	a.until(t, "connected", connected)
	a.set(t, fmt.Sprintf("replace_peers=true\npublic_key=%s\nallowed_ip=10.7.0.2/32\n", kb.Public().Hex()))
	a.ping(t, b.address)
}

// TestSetTouches is about whose sessions and endpoints a set operation has looked at: it must not be all peers for each that is added.
func TestSetTouches(t *testing.T) {
	bob, carol := key.NewPrivate(), key.NewPrivate().Public().Hex()
	a := newEnd(t, new(inproc.Bus), key.NewPrivate(), "10.7.0.1", peerSection(bob, "10.7.0.2", ""))
	peer := "public_key=" + bob.Public().Hex() + "\n"
	for _, test := range []struct {
		text    string
		touched int
		whole   bool
	}{
		{"", 0, false},
		{peer + "preshared_key=" + key.NewPreshared().Hex() + "\n", 0, false},
		{peer + "update_only=true\nprotocol_version=1\npersistent_keepalive_interval=9\n\n", 0, false},
		{"public_key=" + carol + "\nupdate_only=true\n" + peer + "persistent_keepalive_interval=0\n", 1, false},
		{"public_key=" + carol + "\n", 1, false},
		{"public_key=" + carol + "\nremove=true\n", 1, false},
		{peer + "endpoint=127.0.0.1:9\n", 1, false},
		{peer + "replace_allowed_ips=true\n", 0, false},
		{peer + "allowed_ip=10.7.0.3/32\n", 0, false},
		{"fwmark=0\n", 0, true},
		{"private_key=" + bob.Hex() + "\n", 1, true}, // who is the interface itself now
		{"replace_peers=true\n", 0, true},
	} {
		a.uapiMu.Lock()
		err := a.wg.IpcSetOperation(&setOperation{device: a.Device, text: []byte(test.text)})
		got, whole := len(a.touched), a.whole
		err = errors.Join(err, a.reconcile())
		a.uapiMu.Unlock()
		if err != nil || got != test.touched || whole != test.whole {
			t.Errorf("%q: got %d touched, all %t, %v; want %d, %t", test.text, got, whole, err, test.touched, test.whole)
		}
	}
}

// TestClosedRefuses checks that nothing starts again after Close.
func TestClosedRefuses(t *testing.T) {
	a := newEnd(t, new(inproc.Bus), key.NewPrivate(), "10.7.0.1", "")
	a.Close()
	if err := a.Up(0); err == nil {
		t.Error("up: got no error")
	}
	if err := a.ipcSet([]byte("public_key=" + key.NewPrivate().Public().Hex() + "\n")); err == nil || len(a.peers) != 0 {
		t.Errorf("set: got %v and %d sessions", err, len(a.peers))
	}
}
