package device

import (
	"net"
	"os"
	"runtime"
	"testing"
	"weak"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/wice-go/wice-go/bind"
	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/inproc"
	"github.com/wice-go/wice-go/signal/session"
)

// traces is what a peer may leave behind.
type traces struct{ goroutines, files, peers, members, yielded, endpoints, iceConns, routes int }

func (e *end) traces(t *testing.T) traces {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	held := e.bind.Held()
	routes := 0
	for range e.table.routes.all() {
		routes++
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	return traces{runtime.NumGoroutine(), len(files), len(e.peers), len(e.table.members), len(e.yielded), held.Peers + held.Sources, held.ICEConns, routes}
}

// remains are the parts of a peer that is gone.
type remains struct {
	peer     weak.Pointer[peer]
	session  weak.Pointer[session.Session]
	endpoint weak.Pointer[bind.PeerEndpoint]
}

func (e *end) remains(pk key.Public) remains {
	p := e.lookup(pk)
	return remains{weak.Make(p), weak.Make(p.session), weak.Make(p.endpoint)}
}

// strangePacket has the shape of WireGuard's data, of no session.
var strangePacket = append([]byte{4}, make([]byte, 31)...)

// TestRemovedPeerLeavesNothing adds a peer without endpoint while the interface is up, as "wg set" does, waits until packets go through, and
// removes it, at both ends, many times.
func TestRemovedPeerLeavesNothing(t *testing.T) {
	var bus inproc.Bus
	ka, kb := key.NewPrivate(), key.NewPrivate()
	a, b := newEnd(t, &bus, ka, "10.7.0.1", ""), newEnd(t, &bus, kb, "10.7.0.2", "")
	ends := []*end{a, b}
	for _, e := range ends {
		if err := e.Up(0); err != nil {
			t.Fatal(err)
		}
	}
	cycle := func() (gone []remains) {
		a.set(t, "public_key="+kb.Public().Hex()+"\nreplace_allowed_ips=true\nallowed_ip=10.7.0.2/32\npersistent_keepalive_interval=25\n")
		b.set(t, "public_key="+ka.Public().Hex()+"\nallowed_ip=10.7.0.1/32\n")
		a.ping(t, b.address)
		for i, e := range ends {
			e.until(t, "connected", connected)
			gone = append(gone, e.remains(ends[1-i].private.Public()))
			e.set(t, "public_key="+ends[1-i].private.Public().Hex()+"\nremove=true\n")
		}
		return gone
	}
	cycle() // what is made once and stays
	var before []traces
	settled := func() bool {
		now := []traces{a.traces(t), b.traces(t)}
		same := len(before) == 2 && now[0] == before[0] && now[1] == before[1]
		before = now
		return same && now[0].yielded+now[1].yielded == 0
	}
	eventually(t, "a state to compare with", settled)
	want := before
	var gone []remains
	for range 20 {
		gone = append(gone, cycle()...)
	}
	for i, e := range ends {
		e.until(t, "no peers", func(s *control.Status) bool { return len(s.Peers) == 0 })
		var got traces
		eventually(t, "as before", func() bool {
			got = e.traces(t)
			return got.goroutines <= want[i].goroutines && got.files <= want[i].files && got.yielded == 0
		})
		got.goroutines, got.files = want[i].goroutines, want[i].files
		if got != want[i] || got.peers+got.members+got.endpoints+got.iceConns+got.routes > 0 {
			t.Errorf("got %+v, want %+v", got, want[i])
		}
	}
	// Nothing refers to what a peer costs. Its endpoint in the bind, which is small, may be known longer: to wireguard-go's places for a batch of
	// packets, each of which has the endpoint of the last packet that was received there. Packets of strangers take the places.
	stranger, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	var known traces
	defer func() {
		if t.Failed() {
			t.Logf("known still: %d peers, %d endpoints", known.peers, known.endpoints)
		}
	}()
	eventually(t, "all are forgotten", func() bool {
		for _, e := range ends {
			for _, ip := range []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback} {
				for range 2 * conn.IdealBatchSize {
					stranger.WriteToUDP(strangePacket, &net.UDPAddr{IP: ip, Port: int(e.bind.Port())})
				}
			}
		}
		runtime.GC()
		known = traces{}
		for _, r := range gone {
			if r.peer.Value() != nil || r.session.Value() != nil {
				known.peers++
			}
			if r.endpoint.Value() != nil {
				known.endpoints++
			}
		}
		return known == traces{}
	})
}
