package offload

import (
	"bytes"
	"encoding/binary"
	"testing"
)

const testOffset = 16 // as wireguard-go's, more than HeaderSize

// packet describes a test packet.
type packet struct {
	ipv6     bool
	protocol uint8
	port     uint16 // source
	seq, ack uint32
	flags    uint8
	window   uint16
	options  int // bytes of TCP options
	tos      uint8
	id       uint16
	payload  []byte
}

// naiveSum is RFC 1071 word for word.
func naiveSum(parts ...[]byte) uint16 {
	var s uint32
	for _, b := range parts {
		for i := 0; i < len(b); i += 2 {
			w := uint32(b[i]) << 8
			if i+1 < len(b) {
				w |= uint32(b[i+1])
			}
			s += w
			s = s>>16 + s&0xffff
		}
	}
	return uint16(s)
}

// bytes returns the packet with right checksums.
func (p packet) bytes() []byte {
	var t []byte
	if p.protocol == protoTCP {
		t = make([]byte, tcpSize+p.options)
		binary.BigEndian.PutUint16(t, p.port)
		binary.BigEndian.PutUint16(t[2:], 80)
		binary.BigEndian.PutUint32(t[4:], p.seq)
		binary.BigEndian.PutUint32(t[8:], p.ack)
		t[12] = uint8(len(t)/4) << 4
		t[tcpFlags] = p.flags
		binary.BigEndian.PutUint16(t[14:], p.window)
		for i := range t[tcpSize:] {
			t[tcpSize+i] = 1 // no operation
		}
	} else {
		t = make([]byte, udpSize)
		binary.BigEndian.PutUint16(t, p.port)
		binary.BigEndian.PutUint16(t[2:], 53)
		binary.BigEndian.PutUint16(t[4:], uint16(udpSize+len(p.payload)))
	}
	var ip, addrs []byte
	if p.ipv6 {
		ip = make([]byte, ipv6Size)
		ip[0] = 6<<4 | p.tos>>4
		ip[1] = p.tos << 4
		binary.BigEndian.PutUint16(ip[4:], uint16(len(t)+len(p.payload)))
		ip[6], ip[7] = p.protocol, 64
		ip[8], ip[23], ip[24], ip[39] = 0xfd, 1, 0xfd, 2
		addrs = ip[8:40]
	} else {
		ip = make([]byte, ipv4Size)
		ip[0], ip[1] = 0x45, p.tos
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(t)+len(p.payload)))
		binary.BigEndian.PutUint16(ip[4:], p.id)
		ip[6], ip[8], ip[9] = 0x40, 64, p.protocol
		copy(ip[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
		binary.BigEndian.PutUint16(ip[ipv4Sum:], ^naiveSum(ip))
		addrs = ip[12:20]
	}
	at := tcpSum
	if p.protocol == protoUDP {
		at = udpSum
	}
	length := []byte{0, p.protocol, byte((len(t) + len(p.payload)) >> 8), byte(len(t) + len(p.payload))}
	c := ^naiveSum(addrs, length, t, p.payload)
	if p.protocol == protoUDP && c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(t[at:], c)
	return bytes.Join([][]byte{ip, t, p.payload}, nil)
}

// checkSums fails the test unless all checksums of the packet are right, by the naive sum.
func checkSums(t testing.TB, b []byte) {
	t.Helper()
	start, addrs := ipv4Size, b[12:20]
	protocol := b[9]
	if b[0]>>4 == 6 {
		start, addrs, protocol = ipv6Size, b[8:40], b[6]
	} else if s := naiveSum(b[:ipv4Size]); s != 0xffff {
		t.Fatalf("sum of the IPv4 header: %#x", s)
	}
	n := len(b) - start
	if s := naiveSum(addrs, []byte{0, protocol, byte(n >> 8), byte(n)}, b[start:]); s != 0xffff {
		t.Fatalf("sum of the transport header: %#x", s)
	}
}

// batch lays packets out as wireguard-go does.
func batch(packets ...[]byte) [][]byte {
	var bufs [][]byte
	for _, p := range packets {
		b := make([]byte, testOffset+len(p), testOffset+len(p)+64)
		copy(b[testOffset:], p)
		bufs = append(bufs, b)
	}
	return bufs
}

// splitAll returns the packets of a frame.
func splitAll(t testing.TB, frame []byte) [][]byte {
	t.Helper()
	var s Splitter
	if err := s.Load(frame); err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	dst := make([]byte, maxPacket)
	for s.Pending() {
		n, err := s.Next(dst)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, bytes.Clone(dst[:n]))
	}
	return out
}

// joinAll returns the frames of packets.
func joinAll(c *Coalescer, bufs [][]byte) [][]byte {
	var frames [][]byte
	for i := range c.Join(bufs, testOffset) {
		frames = append(frames, bytes.Join(c.Frame(nil, i), nil))
	}
	return frames
}

// withoutID removes IPv4's identification, which cutting counts up from the first packet's.
func withoutID(b []byte) []byte {
	b = bytes.Clone(b)
	if b[0]>>4 == 4 {
		clear(b[4:6])
		clear(b[ipv4Sum : ipv4Sum+2])
	}
	return b
}
