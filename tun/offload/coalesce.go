package offload

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// Coalescer joins packets of one flow that follow each other. Packets of a flow never overtake each other: what can't be appended to the
// flow's newest frame begins another one.
type Coalescer struct {
	udp    bool
	sums   bool // add checksums up in place of verifying them
	bufs   [][]byte
	offset int
	frames []frame
	next   []int  // by packet, the next one of the same frame
	open   []flow // frames that more can be appended to, the oldest first
}

// frame is one or more packets, the first being bufs[head].
type frame struct {
	head, tail int
	count      int
	total      int // length in bytes, the virtio-net header apart
	seq        uint32
	p          parsed // of the first packet
	verified   bool   // its checksum
	payload    sum    // of the packets that were appended, as their checksums have it
	psh        bool
}

// flow leads from what its packets have in common to their newest frame.
type flow struct {
	key   uint64 // a digest
	frame int
}

// parsed is what joining wants to know of a packet.
type parsed struct {
	ipv6      bool
	protocol  uint8 // TCP, UDP, or 0: it is of no flow
	joins     bool  // has payload, and no flag but ACK and PSH
	psh       bool
	transport int // where the transport header begins
	headers   int // and ends
	size      int // of the payload
	key       uint64
}

// NewCoalescer returns one for a device that takes joined TCP packets and, if udp is set, joined UDP packets (TUN_F_USO4, TUN_F_USO6).
func NewCoalescer(udp bool) *Coalescer { return &Coalescer{udp: udp} }

// NewStackCoalescer returns one for a TCP/IP stack in this process, which verifies checksums itself: see [Coalescer.Packet].
func NewStackCoalescer() *Coalescer { return &Coalescer{sums: true} }

// Join makes frames of the packets bufs[i][offset:] and returns how many there are. In front of each packet there must be [HeaderSize] bytes;
// bufs must stay as they are until the last [Coalescer.Frame].
func (c *Coalescer) Join(bufs [][]byte, offset int) int {
	c.bufs, c.offset = bufs, offset
	c.frames, c.open = c.frames[:0], c.open[:0]
	for len(c.next) < len(bufs) {
		c.next = append(c.next, 0)
	}
	for i, b := range bufs {
		p := parse(b[offset:], c.udp)
		if p.protocol == 0 {
			c.begin(i, p)
			continue
		}
		o := c.find(&p, b[offset:])
		if o >= 0 && c.append(c.open[o].frame, i, &p) {
			continue
		}
		c.begin(i, p)
		switch n := len(c.frames) - 1; {
		case o >= 0 && p.joins:
			c.open[o].frame = n
		case o >= 0:
			c.open = append(c.open[:o], c.open[o+1:]...)
		case p.joins:
			c.open = append(c.open, flow{p.key, n})
		}
	}
	return len(c.frames)
}

// find returns the index of the packet's flow among the open ones, or -1.
func (c *Coalescer) find(p *parsed, b []byte) int {
	for o := len(c.open) - 1; o >= 0; o-- {
		if c.open[o].key != p.key {
			continue
		}
		f := &c.frames[c.open[o].frame]
		head := c.bufs[f.head][c.offset:]
		if f.p.ipv6 == p.ipv6 && f.p.protocol == p.protocol && bytes.Equal(addresses(head, p.ipv6), addresses(b, p.ipv6)) &&
			bytes.Equal(head[f.p.transport:][:4], b[p.transport:][:4]) {
			return o
		}
	}
	return -1
}

// begin makes a frame of the packet.
func (c *Coalescer) begin(i int, p parsed) {
	f := frame{head: i, tail: i, count: 1, total: len(c.bufs[i]) - c.offset, p: p, psh: p.psh}
	if p.protocol == protoTCP {
		f.seq = binary.BigEndian.Uint32(c.bufs[i][c.offset+p.transport+4:]) + uint32(p.size)
	}
	c.frames = append(c.frames, f)
}

// append adds the packet to a frame of its flow if a receiver of the frame would see no difference.
func (c *Coalescer) append(n, i int, p *parsed) bool {
	f := &c.frames[n]
	head, b := c.bufs[f.head][c.offset:], c.bufs[i][c.offset:]
	switch {
	case !p.joins, f.psh, p.headers != f.p.headers, p.transport != f.p.transport,
		p.size > f.p.size, f.total+p.size > maxPacket,
		(f.total-f.p.headers)%f.p.size != 0: // the last one was shorter
		return false
	case !sameIP(head, b, p.ipv6):
		return false
	}
	if p.protocol == protoTCP {
		h, t := head[p.transport:p.headers], b[p.transport:p.headers]
		if binary.BigEndian.Uint32(t[4:]) != f.seq || [4]byte(h[8:]) != [4]byte(t[8:]) || [2]byte(h[14:]) != [2]byte(t[14:]) ||
			[2]byte(h[18:]) != [2]byte(t[18:]) || !bytes.Equal(h[tcpSize:], t[tcpSize:]) {
			return false // another place; or another acknowledgement, window, urgent pointer or options
		}
	}
	switch {
	case c.sums:
		f.addPayload(b, p)
	case !f.verified && !intact(head, &f.p):
		return false
	default:
		f.verified = true
		if !intact(b, p) {
			return false
		}
	}
	c.next[f.tail] = i
	f.tail = i
	f.count++
	f.total += p.size
	f.seq += uint32(p.size)
	f.psh = p.psh
	return true
}

// Frame appends the pieces of the n-th frame to dst, and completes its headers. It is called once for each.
func (c *Coalescer) Frame(dst [][]byte, n int) [][]byte {
	f := &c.frames[n]
	first := c.bufs[f.head][c.offset-HeaderSize:]
	clear(first[:HeaderSize])
	dst = append(dst, first)
	if f.count == 1 {
		return dst
	}
	c.complete(f, first)
	return c.payloads(dst, f)
}

// Packet is Frame without the virtio-net header, and without the room for it, of a coalescer for a stack in this process. The checksum of TCP is
// made of those of the joined packets, without a look at their payload: it is right if all of them were.
func (c *Coalescer) Packet(dst [][]byte, n int) [][]byte {
	f := &c.frames[n]
	first := c.bufs[f.head][c.offset:]
	dst = append(dst, first)
	if f.count == 1 {
		return dst
	}
	all := f.payload.add(uint64(payloadSum(first, &f.p).fold()))
	f.lengthen(first)
	transport := first[f.p.transport:f.p.headers]
	clear(transport[tcpSum : tcpSum+2])
	all.add(uint64(pseudoHeader(addresses(first, f.p.ipv6), f.p.protocol, f.total-f.p.transport).addBytes(transport))).put(transport[tcpSum:])
	return c.payloads(dst, f)
}

// addPayload adds the sum of a packet's payload, which comes behind all that the frame has.
func (f *frame) addPayload(b []byte, p *parsed) {
	v := payloadSum(b, p).fold()
	if (f.total-f.p.headers)%2 != 0 {
		v = bits.ReverseBytes16(v) // RFC 1071, section 2(B): at an odd offset
	}
	f.payload = f.payload.add(uint64(v))
}

// payloadSum returns the sum of a packet's payload without a look at it: what its checksum says that must be.
func payloadSum(b []byte, p *parsed) sum {
	t := b[p.transport:]
	return sum(^pseudoHeader(addresses(b, p.ipv6), p.protocol, len(t)).addBytes(t[:p.headers-p.transport]).fold())
}

// payloads appends those of all packets but the first.
func (c *Coalescer) payloads(dst [][]byte, f *frame) [][]byte {
	for i, k := f.head, 1; k < f.count; k++ {
		i = c.next[i]
		dst = append(dst, c.bufs[i][c.offset+f.p.headers:])
	}
	return dst
}

// lengthen makes the headers b of the first packet those of all, but for the transport's checksum.
func (f *frame) lengthen(b []byte) {
	if f.p.ipv6 {
		binary.BigEndian.PutUint16(b[4:], uint16(f.total-ipv6Size))
	} else {
		binary.BigEndian.PutUint16(b[2:], uint16(f.total))
		clear(b[ipv4Sum : ipv4Sum+2])
		sum(0).addBytes(b[:ipv4Size]).put(b[ipv4Sum:])
	}
	transport := b[f.p.transport:]
	if f.p.protocol == protoUDP {
		binary.BigEndian.PutUint16(transport[4:], uint16(f.total-f.p.transport))
	}
	if f.psh {
		transport[tcpFlags] |= flagPSH
	}
}

// complete makes the headers of several packets from those of the first.
func (c *Coalescer) complete(f *frame, first []byte) {
	h := header{
		flags:    flagNeedsChecksum,
		headers:  uint16(f.p.headers),
		segment:  uint16(f.p.size),
		sumStart: uint16(f.p.transport),
	}
	b := first[HeaderSize:]
	f.lengthen(b)
	transport := b[f.p.transport:]
	length := f.total - f.p.transport
	switch {
	case f.p.protocol == protoUDP:
		h.gsoType, h.sumOffset = gsoUDP, udpSum
	case f.p.ipv6:
		h.gsoType, h.sumOffset = gsoTCPv6, tcpSum
	default:
		h.gsoType, h.sumOffset = gsoTCPv4, tcpSum
	}
	// The kernel wants the sum of the pseudo-header here, and completes it if anybody needs it.
	partial := pseudoHeader(addresses(b, f.p.ipv6), f.p.protocol, length)
	binary.NativeEndian.PutUint16(transport[h.sumOffset:], partial.fold())
	h.encode(first)
}

// parse reads the headers of a packet. Fragments, and headers with IP options or extensions, are of no flow.
func parse(b []byte, udp bool) (p parsed) {
	if len(b) < ipv4Size+udpSize || len(b) > maxPacket {
		return parsed{}
	}
	var protocol uint8
	switch b[0] {
	case 0x45:
		const fragment = 0xbfff // reserved bit, more fragments, offset
		if int(binary.BigEndian.Uint16(b[2:])) != len(b) || binary.BigEndian.Uint16(b[6:])&fragment != 0 {
			return parsed{}
		}
		protocol, p.transport = b[9], ipv4Size
	default:
		if b[0]>>4 != 6 || len(b) < ipv6Size+udpSize || int(binary.BigEndian.Uint16(b[4:])) != len(b)-ipv6Size {
			return parsed{}
		}
		protocol, p.transport, p.ipv6 = b[6], ipv6Size, true
	}
	t := b[p.transport:]
	switch {
	case protocol == protoTCP && len(t) >= tcpSize:
		size := int(t[12]>>4) * 4
		if size < tcpSize || size > len(t) {
			return parsed{}
		}
		p.headers = p.transport + size
		p.psh = t[tcpFlags]&flagPSH != 0
		p.joins = t[tcpFlags]&^flagPSH == flagACK
	case protocol == protoUDP && udp:
		if int(binary.BigEndian.Uint16(t[4:])) != len(t) {
			return parsed{}
		}
		p.headers = p.transport + udpSize
		p.joins = t[udpSum] != 0 || t[udpSum+1] != 0
	default:
		return parsed{}
	}
	p.protocol = protocol
	p.size = len(b) - p.headers
	p.joins = p.joins && p.size > 0 && (p.ipv6 || sum(0).addBytes(b[:ipv4Size]).valid())
	p.key = uint64(binary.NativeEndian.Uint32(t)) | uint64(protocol)<<32
	for a := addresses(b, p.ipv6); len(a) > 0; a = a[8:] {
		p.key = (p.key ^ binary.NativeEndian.Uint64(a)) * 0x9e3779b97f4a7c15 // 2^64 over the golden ratio: spreads the bits
	}
	return p
}

// addresses returns source and destination.
func addresses(b []byte, ipv6 bool) []byte {
	if ipv6 {
		return b[ipv6Addrs : ipv6Addrs+32]
	}
	return b[ipv4Addrs : ipv4Addrs+8]
}

// sameIP reports whether what an IP header has beside addresses and lengths is the same: TOS, fragmentation and TTL, or traffic class, flow
// label and hop limit.
func sameIP(a, b []byte, ipv6 bool) bool {
	if ipv6 {
		return [4]byte(a) == [4]byte(b) && a[7] == b[7]
	}
	return a[1] == b[1] && a[6] == b[6] && a[8] == b[8]
}

// intact verifies the checksum of TCP or UDP.
func intact(b []byte, p *parsed) bool {
	t := b[p.transport:]
	return pseudoHeader(addresses(b, p.ipv6), p.protocol, len(t)).addBytes(t).valid()
}
