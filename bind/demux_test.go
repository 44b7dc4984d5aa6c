package bind

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/pion/stun"
)

func bindingRequest(t testing.TB, setters ...stun.Setter) []byte {
	t.Helper()
	m, err := stun.Build(append([]stun.Setter{stun.TransactionID, stun.BindingRequest}, setters...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

// cookieIndex is a WireGuard packet whose receiver index has the bytes of STUN's cookie, and whose length would fit too.
func cookieIndex(t uint32) []byte {
	b := make([]byte, 32)
	binary.LittleEndian.PutUint32(b, t)
	binary.BigEndian.PutUint32(b[4:], stunCookie)
	return b
}

func TestClassify(t *testing.T) {
	request := bindingRequest(t, stun.NewUsername("abcd:efgh"))
	longer := append([]byte(nil), request...)
	longer = append(longer, 0, 0, 0, 0)
	turnData := append([]byte{0x40, 0x00}, request[2:]...)
	for _, c := range []struct {
		name string
		in   []byte
		want packetKind
	}{
		{"empty", nil, kindOther},
		{"initiation", transport(initiationSize, 0), kindWireGuard},
		{"keepalive", transport(32, 0), kindWireGuard},
		{"short", transport(31, 0), kindOther},
		{"type 0", make([]byte, 32), kindOther},
		{"type 5", append([]byte{5, 0, 0, 0}, make([]byte, 28)...), kindOther},
		{"reserved bytes", append([]byte{4, 0, 0, 1}, make([]byte, 28)...), kindOther},
		{"request", request, kindSTUN},
		{"bare request", bindingRequest(t), kindSTUN},
		{"longer than it says", longer, kindOther},
		{"cut short", request[:len(request)-4], kindOther},
		{"first bits 01", turnData, kindOther},
		{"cookie as receiver index, type 1", cookieIndex(1), kindWireGuard},
		{"cookie as receiver index, type 4", cookieIndex(4), kindWireGuard},
	} {
		if got := classify(c.in); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

// TestMixedTraffic sends WireGuard packets among others, all of one size, so that the kernel may join them.
func TestMixedTraffic(t *testing.T) {
	a, b := openBind(t, Options{}), openBind(t, Options{})
	stunPacket := bindingRequest(t, stun.NewUsername("nobody:here")) // 36 bytes
	for len(stunPacket)%4 != 0 || len(stunPacket) < 32 {
		t.Fatal("unexpected size")
	}
	var bufs [][]byte
	for i := range 20 {
		p := transport(len(stunPacket), uint32(i))
		copy(p[4:], cookieIndex(4)[4:8])
		bufs = append(bufs, p, stunPacket, make([]byte, len(stunPacket)))
	}
	bufs = append(bufs, transport(len(stunPacket), 20)) // comes after the others have been seen
	if err := a.Send(bufs, endpointTo(t, a, b.addr4())); err != nil {
		t.Fatal(err)
	}
	for i := range 21 {
		if got := b.next(t); number(got.data) != uint32(i) || classify(got.data) != kindWireGuard {
			t.Fatalf("got % x, want packet %d", got.data, i)
		}
	}
	select {
	case got := <-b.got:
		t.Errorf("also got % x", got.data)
	default:
	}
	if s := b.Stats(); s.Unknown != 20 || s.STUNUnknown != 20 {
		t.Errorf("got %+v, want 20 unknown and 20 STUN packets for nobody", s)
	}
}

// TestCookieAsReceiverIndex is about the one session in 2^32 whose index has the bytes of STUN's cookie: all its packets arrive, also
// while an agent listens at the same address.
func TestCookieAsReceiverIndex(t *testing.T) {
	a, b := openBind(t, loopbackOnly), openBind(t, loopbackOnly)
	for _, to := range []netip.AddrPort{b.addr4(), b.addr6()} {
		agent := muxConnOf(t, b, "bbbb", to.Addr().String())
		defer agent.Close()
		for _, batch := range []int{1, batchSize} {
			var bufs [][]byte
			for kind := uint32(typeInitiation); kind <= typeTransport; kind++ {
				for _, size := range []int{minWireGuardSize, 64, 92, initiationSize, 1452} {
					p := transport(size, uint32(len(bufs)))
					copy(p, cookieIndex(kind)[:8])
					bufs = append(bufs, p)
				}
			}
			for out := range slices.Chunk(bufs, batch) {
				if err := a.Send(out, endpointTo(t, a, to)); err != nil {
					t.Fatal(err)
				}
			}
			for i, want := range bufs {
				if got := b.next(t); !bytes.Equal(got.data, want) {
					t.Fatalf("%s: packet %d: got % x, want % x", to, i, got.data, want)
				}
			}
		}
	}
	if s := b.Stats(); s != (Stats{}) {
		t.Errorf("got %+v, want nothing lost", s)
	}
}

func FuzzClassify(f *testing.F) {
	f.Add([]byte{})
	f.Add(transport(148, 7))
	f.Add(cookieIndex(2))
	f.Add(bindingRequest(f, stun.NewUsername("abcd:efgh"), stun.Fingerprint))
	f.Fuzz(func(t *testing.T, b []byte) {
		k := classify(b)
		isWG := len(b) >= 32 && b[0] >= 1 && b[0] <= 4 && b[1] == 0 && b[2] == 0 && b[3] == 0
		if isWG != (k == kindWireGuard) {
			t.Errorf("% x: got %d", b, k)
		}
		if k != kindSTUN {
			return
		}
		if !stun.IsMessage(b) {
			t.Errorf("% x is no STUN message", b)
		}
		// What comes next must cope with everything that passes.
		d := &demux{mux: New(Options{}).Mux(), stats: new(counters)}
		d.mux.deliver(b, &origin{source: sourceOf(netip.MustParseAddrPort("192.0.2.1:1"))})
	})
}

func FuzzUsernameFragment(f *testing.F) {
	f.Add(bindingRequest(f, stun.NewUsername("abcd:efgh")))
	f.Add(bindingRequest(f, stun.NewUsername("abcd")))
	f.Add(bindingRequest(f, stun.NewSoftware("x"), stun.NewUsername("a:")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if classify(b) != kindSTUN {
			return
		}
		got, ok := usernameFragment(b)
		m := &stun.Message{Raw: append([]byte(nil), b...)}
		if m.Decode() != nil {
			return
		}
		var want stun.Username
		if err := want.GetFrom(m); err == nil && ok && len(want) < len(got)+1 {
			t.Errorf("got %q from %q", got, want)
		}
	})
}

func FuzzMappedAddress(f *testing.F) {
	ok, _ := stun.Build(stun.TransactionID, stun.BindingSuccess, &stun.XORMappedAddress{IP: []byte{192, 0, 2, 1}, Port: 9})
	f.Add(ok.Raw)
	refused, _ := stun.Build(stun.TransactionID, stun.BindingError, stun.CodeServerError)
	f.Add(refused.Raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		if ap, err := mappedAddress(b); err == nil && (!ap.IsValid() || ap.Port() == 0 || ap.Addr().Is4In6()) {
			t.Errorf("accepted %s", ap)
		}
	})
}
