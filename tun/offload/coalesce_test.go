package offload

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

func TestCoalesce(t *testing.T) {
	const ack = flagACK
	tcp := func(seq uint32, n int, change ...func(*packet)) []byte {
		p := packet{protocol: protoTCP, port: 1, seq: seq, ack: 5, flags: ack, payload: payload(n)}
		for _, f := range change {
			f(&p)
		}
		return p.bytes()
	}
	udp := func(n int, change ...func(*packet)) []byte {
		p := packet{protocol: protoUDP, port: 1, payload: payload(n)}
		for _, f := range change {
			f(&p)
		}
		return p.bytes()
	}
	v6 := func(p *packet) { p.ipv6 = true }
	psh := func(p *packet) { p.flags |= flagPSH }
	corrupt := func(b []byte) []byte { b[len(b)-1] ^= 1; return b }
	for _, c := range []struct {
		name    string
		packets [][]byte
		want    []int // packets of each frame
	}{
		{"one", [][]byte{tcp(0, 10)}, []int{1}},
		{"a stream", [][]byte{tcp(0, 10), tcp(10, 10), tcp(20, 10)}, []int{3}},
		{"a stream over IPv6", [][]byte{tcp(0, 10, v6), tcp(10, 10, v6)}, []int{2}},
		{"the number wraps", [][]byte{tcp(1<<32-10, 10), tcp(0, 10)}, []int{2}},
		{"a shorter one ends it", [][]byte{tcp(0, 10), tcp(10, 4), tcp(14, 4)}, []int{2, 1}},
		{"a longer one does not fit", [][]byte{tcp(0, 10), tcp(10, 11)}, []int{1, 1}},
		{"push ends it", [][]byte{tcp(0, 10), tcp(10, 10, psh), tcp(20, 10)}, []int{2, 1}},
		{"a gap", [][]byte{tcp(0, 10), tcp(20, 10), tcp(10, 10), tcp(20, 10)}, []int{1, 1, 2}},
		{"another acknowledgement", [][]byte{tcp(0, 10), tcp(10, 10, func(p *packet) { p.ack++ })}, []int{1, 1}},
		{"another window", [][]byte{tcp(0, 10), tcp(10, 10, func(p *packet) { p.window++ })}, []int{1, 1}},
		{"other options", [][]byte{tcp(0, 10), tcp(10, 10, func(p *packet) { p.options = 4 })}, []int{1, 1}},
		{"another class", [][]byte{tcp(0, 10), tcp(10, 10, func(p *packet) { p.tos = 3 })}, []int{1, 1}},
		{"another class over IPv6", [][]byte{tcp(0, 10, v6), tcp(10, 10, v6, func(p *packet) { p.tos = 3 })}, []int{1, 1}},
		{"a flag between", [][]byte{tcp(0, 10), tcp(10, 10, func(p *packet) { p.flags = ack | flagFIN }), tcp(10, 10)}, []int{1, 1, 1}},
		{"an acknowledgement between", [][]byte{tcp(0, 10), tcp(10, 0), tcp(10, 10)}, []int{1, 1, 1}},
		{"corrupt first", [][]byte{corrupt(tcp(0, 10)), tcp(10, 10), tcp(20, 10)}, []int{1, 2}},
		{"corrupt second", [][]byte{tcp(0, 10), corrupt(tcp(10, 10)), tcp(20, 10)}, []int{1, 1, 1}},
		{"interleaved flows", [][]byte{tcp(0, 10), tcp(0, 10, func(p *packet) { p.port = 2 }), tcp(10, 10), tcp(10, 10, func(p *packet) { p.port = 2 })}, []int{2, 2}},
		{"TCP and UDP of the same ports", [][]byte{tcp(0, 10), udp(10), tcp(10, 10), udp(10)}, []int{2, 2}},
		{"datagrams", [][]byte{udp(10), udp(10), udp(3), udp(10), udp(10)}, []int{3, 2}},
		{"datagrams over IPv6", [][]byte{udp(10, v6), udp(10, v6)}, []int{2}},
		{"too much", [][]byte{tcp(0, 40000), tcp(40000, 40000)}, []int{1, 1}},
	} {
		coalescer := NewCoalescer(true)
		frames := joinAll(coalescer, batch(c.packets...))
		var got []int
		for _, f := range coalescer.frames {
			got = append(got, f.count)
		}
		if len(got) != len(c.want) || len(frames) != len(got) {
			t.Errorf("%s: got frames of %v, want %v", c.name, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: got frames of %v, want %v", c.name, got, c.want)
			}
		}
	}
}

// Without the kernel's help for UDP its packets stay alone.
func TestCoalesceWithoutUDP(t *testing.T) {
	b := packet{protocol: protoUDP, port: 1, payload: payload(10)}.bytes()
	if n := NewCoalescer(false).Join(batch(b, b), testOffset); n != 2 {
		t.Errorf("got %d frames, want 2", n)
	}
}

// Cut again, frames give the packets that they were made of, those of a flow in their order, and corrupt ones as they were.
func TestCoalesceRoundTrip(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 0))
		var packets [][]byte
		seqs := make(map[packetFlow]uint32)
		for range 1 + r.IntN(128) {
			p := packet{ipv6: r.IntN(2) == 0, protocol: protoTCP, port: uint16(r.IntN(3)), ack: uint32(r.IntN(10) / 9), window: uint16(r.IntN(10) / 9), flags: flagACK,
				id: uint16(r.Uint32()), payload: payload(100)}
			if r.IntN(3) == 0 {
				p.protocol = protoUDP
			}
			if r.IntN(6) == 0 {
				p.payload = payload(r.IntN(150))
			}
			if p.protocol == protoTCP && r.IntN(15) == 0 {
				p.flags |= uint8(1 << r.IntN(8))
			}
			flow := packetFlow{p.ipv6, p.protocol, p.port}
			p.seq = seqs[flow]
			if r.IntN(20) > 0 {
				seqs[flow] += uint32(len(p.payload))
			}
			b := p.bytes()
			if r.IntN(20) == 0 {
				b[len(b)-1] ^= 0x40
			}
			packets = append(packets, b)
		}
		checkRoundTrip(t, packets)
	}
}

type packetFlow struct {
	ipv6     bool
	protocol uint8
	port     uint16
}

// flowOf names the flow of well-formed packets; all others are one.
func flowOf(b []byte) packetFlow {
	p := parse(b, true)
	if p.protocol == 0 {
		return packetFlow{}
	}
	return packetFlow{p.ipv6, p.protocol, binary.BigEndian.Uint16(b[p.transport:])}
}

func checkRoundTrip(t testing.TB, packets [][]byte) {
	t.Helper()
	want, got := make(map[packetFlow][][]byte), make(map[packetFlow][][]byte)
	for _, b := range packets {
		want[flowOf(b)] = append(want[flowOf(b)], bytes.Clone(b))
	}
	for _, frame := range joinAll(NewCoalescer(true), batch(packets...)) {
		if len(frame) < HeaderSize+ipv4Size { // garbage that is handed on
			got[packetFlow{}] = append(got[packetFlow{}], frame[HeaderSize:])
			continue
		}
		for _, b := range splitAll(t, frame) {
			got[flowOf(b)] = append(got[flowOf(b)], b)
		}
	}
	for flow, w := range want {
		g := got[flow]
		if len(g) != len(w) {
			t.Fatalf("flow %+v: %d packets, want %d", flow, len(g), len(w))
		}
		for i := range w {
			a, b := g[i], w[i]
			if flow != (packetFlow{}) {
				a, b = withoutID(a), withoutID(b)
			}
			if !bytes.Equal(a, b) {
				t.Fatalf("flow %+v: packet %d:\n got %x\nwant %x", flow, i, a, b)
			}
		}
	}
}

func TestCoalesceNoAllocations(t *testing.T) {
	bufs := batch(stream(100, 1380)...)
	c := NewCoalescer(true)
	var pieces [][]byte
	join := func() {
		for i := range c.Join(bufs, testOffset) {
			pieces = c.Frame(pieces[:0], i)
		}
	}
	join()
	if n := testing.AllocsPerRun(100, join); n != 0 {
		t.Errorf("%v allocations", n)
	}
	c = NewStackCoalescer()
	join = func() {
		for i := range c.Join(bufs, testOffset) {
			pieces = c.Packet(pieces[:0], i)
		}
	}
	join()
	if n := testing.AllocsPerRun(100, join); n != 0 {
		t.Errorf("for a stack: %v allocations", n)
	}
}

func stream(n, size int) [][]byte {
	var packets [][]byte
	for i := range n {
		packets = append(packets, packet{protocol: protoTCP, seq: uint32(i * size), flags: flagACK, payload: payload(size)}.bytes())
	}
	return packets
}

// packetsOf returns what a stack gets of packets.
func packetsOf(c *Coalescer, bufs [][]byte) [][]byte {
	var packets [][]byte
	for i := range c.Join(bufs, testOffset) {
		packets = append(packets, bytes.Join(c.Packet(nil, i), nil))
	}
	return packets
}

// A stack gets TCP packets with a checksum that is right if all were, and wrong if one was not; and what can be cut into the same packets again.
func TestCoalesceForStack(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		for _, size := range []int{1, 7, 100, 1379, 1380} {
			var in [][]byte
			for i := range 20 {
				p := packet{ipv6: ipv6, protocol: protoTCP, seq: uint32(i * size), flags: flagACK, options: 12, payload: payload(size)}
				if i == 19 {
					p.flags, p.payload = flagACK|flagPSH, payload(max(size-3, 1))
				}
				in = append(in, p.bytes())
			}
			got := packetsOf(NewStackCoalescer(), batch(in...))
			if len(got) != 1 {
				t.Fatalf("%d packets of %d bytes, want them joined", len(got), size)
			}
			checkSums(t, got[0])
			headers := len(in[0]) - size
			rest := got[0][headers:]
			var s Splitter
			if err := s.LoadTCP(bytes.Clone(got[0][:headers]), [][]byte{rest[:len(rest)/3], {}, rest[len(rest)/3:]}, size); err != nil {
				t.Fatal(err)
			}
			dst := make([]byte, maxPacket)
			for i := 0; s.Pending(); i++ {
				n, err := s.Next(dst)
				if err != nil || !bytes.Equal(withoutID(dst[:n]), withoutID(in[i])) {
					t.Fatalf("packet %d of %d bytes: %v\n got %x\nwant %x", i, size, err, dst[:n], in[i])
				}
				checkSums(t, dst[:n])
			}
			in[3][len(in[3])-1] ^= 0x10
			got = packetsOf(NewStackCoalescer(), batch(in...))
			if len(got) != 1 || intact(got[0], &parsed{ipv6: ipv6, protocol: protoTCP, transport: headers - tcpSize - 12}) {
				t.Errorf("%d packets of %d bytes, and a flipped bit in one of them is not seen", len(got), size)
			}
		}
	}
}

// Whatever a peer sends through the tunnel, it comes out as it was. The input is packets with two bytes of length each.
func FuzzCoalesce(f *testing.F) {
	var seed []byte
	for _, b := range append(stream(3, 8), packet{ipv6: true, protocol: protoUDP, payload: payload(9)}.bytes()) {
		seed = append(binary.BigEndian.AppendUint16(seed, uint16(len(b))), b...)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, in []byte) {
		var packets [][]byte
		for len(in) >= 2 && len(packets) < 128 {
			n := min(int(binary.BigEndian.Uint16(in)), len(in)-2)
			if n > 0 {
				packets = append(packets, in[2:2+n])
			}
			in = in[2+n:]
		}
		checkRoundTrip(t, packets)
	})
}

func BenchmarkCoalesce(b *testing.B) {
	bufs := batch(stream(46, 1380)...)
	saved := bytes.Clone(bufs[0])
	c := NewCoalescer(true)
	var pieces [][]byte
	b.SetBytes(46 * 1420)
	b.ReportAllocs()
	for b.Loop() {
		copy(bufs[0][:80], saved)
		if n := c.Join(bufs, testOffset); n != 1 {
			b.Fatalf("%d frames", n)
		}
		pieces = c.Frame(pieces[:0], 0)
	}
}
