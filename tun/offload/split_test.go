package offload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"
)

// frameOf makes what the kernel hands over for one big packet.
func frameOf(p packet, segment int) []byte {
	b := p.bytes()
	h := header{flags: flagNeedsChecksum, segment: uint16(segment), sumStart: ipv4Size, sumOffset: tcpSum}
	switch {
	case p.protocol == protoUDP:
		h.gsoType, h.sumOffset = gsoUDP, udpSum
	case p.ipv6:
		h.gsoType = gsoTCPv6
	default:
		h.gsoType = gsoTCPv4
	}
	if p.ipv6 {
		h.sumStart = ipv6Size
	}
	h.headers = 9999 // of no use in forwarded frames
	frame := make([]byte, HeaderSize, HeaderSize+len(b))
	h.encode(frame)
	return append(frame, b...)
}

func payload(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

func TestSplit(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		for _, protocol := range []uint8{protoTCP, protoUDP} {
			for _, size := range []struct{ payload, segment int }{{1, 1}, {1380, 1380}, {1381, 1380}, {60000, 1371}, {5000, 1}, {300, 1000}} {
				t.Run(fmt.Sprintf("ipv6=%t/protocol=%d/%d by %d", ipv6, protocol, size.payload, size.segment), func(t *testing.T) {
					p := packet{ipv6: ipv6, protocol: protocol, port: 1234, seq: 1<<32 - 5000, ack: 7, flags: flagACK | flagPSH | flagFIN, options: 12,
						id: 65530, payload: payload(size.payload)}
					got := splitAll(t, frameOf(p, size.segment))
					if want := (size.payload + size.segment - 1) / size.segment; len(got) != want {
						t.Fatalf("%d packets, want %d", len(got), want)
					}
					all := p.payload
					for i, b := range got {
						checkSums(t, b)
						q := p
						q.payload, all = all[:min(size.segment, len(all))], all[min(size.segment, len(all)):]
						q.seq += uint32(i * size.segment)
						q.id += uint16(i)
						if len(all) > 0 {
							q.flags = flagACK
						}
						if want := q.bytes(); !bytes.Equal(b, want) {
							t.Fatalf("packet %d:\n got %x\nwant %x", i, b[:60], want[:60])
						}
					}
				})
			}
		}
	}
}

// A single packet whose checksum is the kernel's to make gets it.
func TestSplitSingle(t *testing.T) {
	p := packet{protocol: protoTCP, flags: flagACK, payload: payload(101)}
	want := p.bytes()
	b := bytes.Clone(want)
	partial := pseudoHeader(b[12:20], protoTCP, len(b)-ipv4Size)
	binary.NativeEndian.PutUint16(b[ipv4Size+tcpSum:], partial.fold())
	frame := make([]byte, HeaderSize)
	h := header{flags: flagNeedsChecksum, sumStart: ipv4Size, sumOffset: tcpSum}
	h.encode(frame)
	if got := splitAll(t, append(frame, b...)); len(got) != 1 || !bytes.Equal(got[0], want) {
		t.Errorf("got %x, want %x", got, want)
	}
	if got := splitAll(t, append(make([]byte, HeaderSize), want...)); len(got) != 1 || !bytes.Equal(got[0], want) {
		t.Errorf("a complete packet changed: got %x, want %x", got, want)
	}
}

// Behind a link header the offsets count from there.
func TestShift(t *testing.T) {
	frame := frameOf(packet{protocol: protoTCP, payload: payload(3000)}, 1000)
	want := bytes.Clone(frame)
	Shift(frame, 14)
	if got := binary.NativeEndian.Uint16(frame[6:]); got != ipv4Size+14 {
		t.Errorf("the checksum begins at %d, want %d", got, ipv4Size+14)
	}
	if Shift(frame, -14); !bytes.Equal(frame, want) {
		t.Errorf("there and back: got %x, want %x", frame[:HeaderSize], want[:HeaderSize])
	}
}

func TestSplitRefuses(t *testing.T) {
	good := func() []byte { return frameOf(packet{protocol: protoTCP, payload: payload(3000)}, 1000) }
	for name, change := range map[string]func([]byte) []byte{
		"short":            func(b []byte) []byte { return b[:HeaderSize+19] },
		"headers alone":    func(b []byte) []byte { return b[:HeaderSize+40] },
		"cut TCP header":   func(b []byte) []byte { return b[:HeaderSize+30] },
		"type":             func(b []byte) []byte { b[1] = 3; return b },
		"other IP version": func(b []byte) []byte { b[1] = gsoTCPv6; return b },
		"no segment size":  func(b []byte) []byte { clear(b[4:6]); return b },
		"transport start":  func(b []byte) []byte { binary.NativeEndian.PutUint16(b[6:], 24); return b },
		"far start":        func(b []byte) []byte { b[1] = 0; binary.NativeEndian.PutUint16(b[6:], 65535); return b },
		"checksum outside": func(b []byte) []byte { binary.NativeEndian.PutUint16(b[8:], 19); return b },
		"TCP offset":       func(b []byte) []byte { b[HeaderSize+ipv4Size+12] = 0x40; return b },
		"long":             func(b []byte) []byte { return append(b, make([]byte, MaxFrame)...) },
	} {
		var s Splitter
		if err := s.Load(change(good())); !errors.Is(err, ErrFrame) || s.Pending() {
			t.Errorf("%s: got %v, pending %t", name, err, s.Pending())
		}
	}
	var s Splitter
	if err := s.Load(good()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Next(make([]byte, 1039)); !errors.Is(err, io.ErrShortBuffer) || s.Pending() {
		t.Errorf("short buffer: got %v, pending %t", err, s.Pending())
	}
}

// A packet of TCP without payload is its own segment; what isn't TCP over IP is refused.
func TestSplitTCP(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		p := packet{ipv6: ipv6, protocol: protoTCP, seq: 9, ack: 7, flags: flagACK | flagFIN, options: 12}
		want := p.bytes()
		headers := bytes.Clone(want)
		headers[len(headers)-12-4] ^= 0xff // the checksum does not matter
		var s Splitter
		dst := make([]byte, 100)
		for _, segment := range []int{1380, 0} {
			if err := s.LoadTCP(bytes.Clone(headers), nil, segment); err != nil || !s.Pending() {
				t.Fatalf("segments of %d: got %v, pending %t", segment, err, s.Pending())
			}
			if n, err := s.Next(dst); err != nil || !bytes.Equal(dst[:n], want) || s.Pending() {
				t.Errorf("segments of %d: got %x, %v, pending %t, want %x", segment, dst[:n], err, s.Pending(), want)
			}
		}
		for name, headers := range map[string][]byte{"nothing": nil, "cut": want[:len(want)-1], "more than headers": append(bytes.Clone(want), 0), "no IP": make([]byte, 52)} {
			if err := s.LoadTCP(bytes.Clone(headers), [][]byte{payload(10)}, 5); !errors.Is(err, ErrFrame) || s.Pending() {
				t.Errorf("%s: got %v, pending %t", name, err, s.Pending())
			}
		}
		for _, segment := range []int{0, -1} {
			if err := s.LoadTCP(bytes.Clone(want), [][]byte{payload(10)}, segment); !errors.Is(err, ErrFrame) {
				t.Errorf("segments of %d: got %v", segment, err)
			}
		}
	}
}

func TestSplitNoAllocations(t *testing.T) {
	frame, dst := frameOf(packet{protocol: protoTCP, payload: payload(60000)}, 1380), make([]byte, 2000)
	saved := bytes.Clone(frame)
	var s Splitter
	if n := testing.AllocsPerRun(100, func() {
		copy(frame, saved)
		if err := s.Load(frame); err != nil {
			t.Fatal(err)
		}
		for s.Pending() {
			s.Next(dst)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Whatever the kernel hands over, nothing panics, and the packets fit where they are put.
func FuzzSplit(f *testing.F) {
	for _, ipv6 := range []bool{false, true} {
		f.Add(frameOf(packet{ipv6: ipv6, protocol: protoTCP, options: 8, payload: payload(300)}, 100))
		f.Add(frameOf(packet{ipv6: ipv6, protocol: protoUDP, payload: payload(300)}, 100))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		frame = bytes.Clone(frame) // it is changed
		var s Splitter
		if s.Load(frame) != nil {
			return
		}
		dst := make([]byte, maxPacket)
		for total := 0; s.Pending(); {
			n, err := s.Next(dst)
			if err != nil {
				t.Fatal(err)
			}
			if total += n; total > 100*MaxFrame { // headers of 60 bytes for each byte of payload
				t.Fatal("no end")
			}
		}
	})
}

func BenchmarkSplit(b *testing.B) {
	saved := frameOf(packet{protocol: protoTCP, flags: flagACK, payload: payload(1380 * 46)}, 1380)
	frame, dst := make([]byte, len(saved)), make([]byte, 2000)
	b.SetBytes(int64(len(saved)))
	b.ReportAllocs()
	var s Splitter
	for b.Loop() {
		copy(frame[:80], saved)
		if err := s.Load(frame); err != nil {
			copy(frame, saved)
			continue
		}
		for s.Pending() {
			s.Next(dst)
		}
	}
}
