package clamp

import (
	"bytes"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	wgtun "golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	testBatch  = 4
	testOffset = 16
)

// fakeTun is a TUN of which a test makes up what it reads.
type fakeTun struct {
	wgtun.Device
	next    [][]byte
	written [][]byte
}

func (f *fakeTun) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n := min(len(f.next), len(bufs))
	for i := range n {
		sizes[i] = copy(bufs[i][offset:], f.next[i])
	}
	f.next = f.next[n:]
	return n, nil
}

func (f *fakeTun) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		f.written = append(f.written, bytes.Clone(b[offset:]))
	}
	return len(bufs), nil
}

// reader reads from a device as wireguard-go does.
type reader struct {
	bufs  [][]byte
	sizes []int
}

func newReader() *reader {
	r := &reader{sizes: make([]int, testBatch)}
	for range testBatch {
		r.bufs = append(r.bufs, make([]byte, 1<<16))
	}
	return r
}

// read returns the packets of one batch.
func (r *reader) read(t testing.TB, d *Device) (packets [][]byte) {
	t.Helper()
	n, err := d.Read(r.bufs, r.sizes, testOffset)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if r.sizes[i] > 0 {
			packets = append(packets, bytes.Clone(r.bufs[i][testOffset:][:r.sizes[i]]))
		}
	}
	return packets
}

// limited returns a device with one peer that has a limit, and that of all addresses beginning with 10.0 and fd00 but 10.0.9 and fd00::9.
func limited(limit int) (*Device, *fakeTun, *Peer) {
	inner, narrow := new(fakeTun), new(Peer)
	other := new(Peer)
	d := New(inner, func(a netip.Addr) *Peer {
		switch {
		case netip.MustParsePrefix("10.0.9.0/24").Contains(a):
			return nil
		case a == netip.MustParseAddr("fd00::9"):
			return other
		case netip.MustParsePrefix("10.0.0.0/16").Contains(a), netip.MustParsePrefix("fd00::/16").Contains(a):
			return narrow
		}
		return nil
	})
	d.SetLimit(narrow, limit)
	return d, inner, narrow
}

func TestRead(t *testing.T) {
	wide4, wide6 := netip.MustParseAddr("10.0.9.9"), netip.MustParseAddr("fd00::9")
	elsewhere := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		name   string
		limit  int
		b      []byte
		passes bool
		mtu    int // in the message; 0: none
	}{
		{"fits", 1300, ip(host4, peer4, 17, make([]byte, 1280)), true, 0},
		{"too big", 1300, ip(host4, peer4, 17, make([]byte, 1281)), false, 1300},
		{"too big, IPv6", 1300, ip(host6, peer6, 17, make([]byte, 1261)), false, 1300},
		{"too big, IPv6, below its least MTU", 1216, ip(host6, peer6, 17, make([]byte, 1241)), false, 1280},
		{"to another peer", 1300, ip(host4, wide4, 17, make([]byte, 1400)), true, 0},
		{"to another peer, IPv6", 1300, ip(host6, wide6, 17, make([]byte, 1380)), true, 0},
		{"to nobody", 1300, ip(host4, elsewhere, 17, make([]byte, 1400)), true, 0},
		{"an error", 1300, ip(host4, peer4, protoICMP, append([]byte{3}, make([]byte, 1399)...)), false, 0},
		{"nonsense", 1300, bytes.Repeat([]byte{0x45}, 1400), true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, inner, _ := limited(c.limit)
			inner.next = [][]byte{c.b, ip(host4, peer4, 17, nil)}
			got := newReader().read(t, d)
			if passed := len(got) == 2; passed != c.passes || passed && !bytes.Equal(got[0], c.b) {
				t.Errorf("passed %v, want %v", passed, c.passes)
			}
			mtu := 0
			if len(inner.written) == 1 {
				p := parsed(t, inner.written[0])
				if p.dst() != parsedAddr(c.b, false) || p.src() != parsedAddr(c.b, true) {
					t.Errorf("a message from %s to %s", p.src(), p.dst())
				}
				if p.v4 {
					mtu = int(header.ICMPv4(p.b[p.header:]).MTU())
				} else {
					mtu = int(header.ICMPv6(p.b[p.header:]).MTU())
				}
			}
			if len(inner.written) > 1 || mtu != c.mtu {
				t.Errorf("%d messages, MTU %d, want %d", len(inner.written), mtu, c.mtu)
			}
		})
	}
}

func parsedAddr(b []byte, dst bool) netip.Addr {
	p, _ := parse(b)
	if dst {
		return p.dst()
	}
	return p.src()
}

// Fragments keep their place among the other packets, also where the batch has no room for them.
func TestReadFragments(t *testing.T) {
	d, inner, _ := limited(1216)
	small := func(n byte) []byte { return ip(host4, peer4, 17, []byte{n}) }
	big4, big6 := mayFragment(ip(host4, peer4, 17, payload(1400))), ip(host6, peer6, 17, payload(1240))
	refused := ip(host4, peer4, 17, make([]byte, 1400))
	inner.next = [][]byte{small(1), big4, refused, big6, small(2), small(3)}
	r := newReader()
	var got [][]byte
	for range 3 {
		got = append(got, r.read(t, d)...)
	}
	if len(got) != 7 {
		t.Fatalf("got %d packets, want 7", len(got))
	}
	for i, want := range map[int][]byte{0: small(1), 5: small(2), 6: small(3)} {
		if !bytes.Equal(got[i], want) {
			t.Errorf("packet %d is %x", i, got[i])
		}
	}
	for i, want := range map[int][]byte{1: big4[headerSize4:], 3: big6[headerSize6:]} {
		if whole, _, _ := joined(t, got[i:i+2], 1216); !bytes.Equal(whole, want) {
			t.Errorf("packets %d and %d are not the one that was cut", i, i+1)
		}
	}
	if len(inner.written) != 1 || !d.queue.empty() {
		t.Errorf("%d messages, queue empty %v", len(inner.written), d.queue.empty())
	}
}

// The MSS is lowered in both directions, for the peer that is limited.
func TestSYN(t *testing.T) {
	d, inner, narrow := limited(1216)
	mss := func(b []byte) uint16 {
		p := parsed(t, b)
		return header.ParseSynOptions(header.TCP(p.b[p.header:]).Options(), false).MSS
	}
	wide := netip.MustParseAddr("10.0.9.9")
	inner.next = [][]byte{syn(host4, peer4, nil, 1380), syn(host4, wide, nil, 1380)}
	got := newReader().read(t, d)
	if mss(got[0]) != 1176 || mss(got[1]) != 1380 {
		t.Errorf("read: got %d and %d, want 1176 and 1380", mss(got[0]), mss(got[1]))
	}
	write := func(b []byte) uint16 {
		if _, err := d.Write([][]byte{append(make([]byte, testOffset), b...)}, testOffset); err != nil {
			t.Fatal(err)
		}
		return mss(inner.written[len(inner.written)-1])
	}
	if got := write(syn(peer6, host6, nil, 1360)); got != 1156 {
		t.Errorf("write: got %d, want 1156", got)
	}
	if got := write(syn(wide, host4, nil, 1380)); got != 1380 {
		t.Errorf("write from another peer: got %d, want 1380", got)
	}
	d.SetLimit(narrow, 0)
	if got := write(syn(peer6, host6, nil, 1360)); got != 1360 {
		t.Errorf("write without a limit: got %d, want 1360", got)
	}
}

func TestSetLimit(t *testing.T) {
	d := New(new(fakeTun), func(netip.Addr) *Peer { return nil })
	var a, b Peer
	for _, c := range []struct {
		peer  *Peer
		limit int
		want  int32
	}{{&a, 1300, 1300}, {&b, 1200, 1200}, {&b, 1400, 1300}, {&a, 0, 1400}, {&b, 1, minLimit}, {&b, 0, 0}} {
		d.SetLimit(c.peer, c.limit)
		if got := d.smallest.Load(); got != c.want {
			t.Errorf("after a limit of %d: got %d, want %d", c.limit, got, c.want)
		}
	}
}

// TCP needs few messages, and a flood gets few.
func TestMessageRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, inner, _ := limited(1216)
		r := newReader()
		for range 100 {
			inner.next = [][]byte{ip(host4, peer4, 17, make([]byte, 1400)), ip(host6, peer6, 17, make([]byte, 1380))}
			r.read(t, d)
		}
		if got := len(inner.written); got != 2*messageBurst {
			t.Errorf("got %d messages at once, want %d", got, 2*messageBurst)
		}
		<-time.After(time.Second)
		inner.next = [][]byte{ip(host4, peer4, 17, make([]byte, 1400))}
		r.read(t, d)
		if got := len(inner.written); got != 2*messageBurst+1 {
			t.Errorf("got %d messages after a second", got)
		}
	})
}

func TestNoAllocations(t *testing.T) {
	d, inner, narrow := limited(1216)
	small, big, other := syn(host4, peer4, nil, 1000), ip(host4, peer4, 17, make([]byte, 1400)), ip(host6, netip.MustParseAddr("fd00::9"), 17, make([]byte, 1380))
	in, r := make([][]byte, 3), newReader()
	out := append(make([]byte, testOffset), syn(peer4, host4, nil, 1000)...)
	quiet := &quietTun{fakeTun: inner}
	d.Device = quiet
	for _, limit := range []int{1216, 0} {
		d.SetLimit(narrow, limit)
		if n := testing.AllocsPerRun(100, func() {
			in[0], in[1], in[2] = small, big, other
			inner.next = in
			d.Read(r.bufs, r.sizes, testOffset)
			quiet.bufs[0] = out
			d.Write(quiet.bufs[:], testOffset)
		}); n > 0 && limit == 0 || n > 1 { // one for each message that is written
			t.Errorf("limit %d: %v allocations", limit, n)
		}
	}
}

// quietTun forgets what is written.
type quietTun struct {
	*fakeTun
	bufs [1][]byte
}

func (q *quietTun) Write(bufs [][]byte, _ int) (int, error) { return len(bufs), nil }

// Nothing that a host or a peer may send breaks the device.
func FuzzDevice(f *testing.F) {
	f.Add(syn(host4, peer4, nil, 1380))
	f.Add(syn(host6, peer6, []byte{optionNop}, 1380))
	f.Add(ip(host4, peer4, 17, make([]byte, 1400)))
	f.Add(mayFragment(ip(host4, peer4, 17, make([]byte, 1400))))
	f.Add(ip(host6, peer6, protoHopByHop, make([]byte, 1200)))
	f.Add(ip(host6, peer6, 17, make([]byte, 1380)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 2000 {
			return
		}
		d, inner, narrow := limited(minLimit)
		d.route = func(netip.Addr) *Peer { return narrow }
		r := newReader()
		inner.next = [][]byte{bytes.Clone(b), ip(host4, peer4, 17, []byte{1})}
		got := r.read(t, d)
		for !d.queue.empty() {
			got = append(got, r.read(t, d)...)
		}
		for _, p := range got {
			if _, ok := parse(p); ok && len(p) > minLimit {
				t.Errorf("%d bytes pass a limit of %d: %x", len(p), minLimit, p)
			}
		}
		if len(got) == 0 || got[len(got)-1][headerSize4] != 1 {
			t.Error("the packet behind is lost")
		}
		if _, err := d.Write([][]byte{append(make([]byte, testOffset), b...)}, testOffset); err != nil {
			t.Error(err)
		}
	})
}
