package offload

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Splitter makes packets of one frame at a time. The zero value is ready.
type Splitter struct {
	head    []byte // the headers, made ready to be copied in front of each packet; or all of a packet that is alone
	payload []byte // the piece of the payload that was begun
	more    [][]byte
	left    int // bytes that were not handed out yet, of all pieces
	pending bool

	// of a frame of several packets
	h      header
	udp    bool
	ipv6   bool
	seq    uint32 // TCP's, of the first packet
	id     uint16 // IPv4's, of the first packet
	count  uint16 // packets handed out
	ip     sum    // IPv4 header without length, identification and checksum
	pseudo sum    // without the length
}

// Load takes a frame, to which the splitter refers until there is nothing left of it, and which it changes. An error wraps [ErrFrame]
// and leaves nothing.
func (s *Splitter) Load(frame []byte) error {
	s.clear()
	if len(frame) < HeaderSize+ipv4Size || len(frame) > MaxFrame {
		return fmt.Errorf("%w: %d bytes", ErrFrame, len(frame))
	}
	s.h.decode(frame)
	p := frame[HeaderSize:]
	if s.h.gsoType != gsoNone {
		if err := s.prepare(p, len(p)); err != nil {
			return err
		}
		s.payload = p[s.h.headers:]
		s.left = len(s.payload)
		p = p[:s.h.headers]
	} else if s.h.flags&flagNeedsChecksum != 0 {
		start := int(s.h.sumStart)
		at := start + int(s.h.sumOffset)
		if start > len(p) || at+2 > len(p) {
			return fmt.Errorf("%w: checksum at %d of %d bytes", ErrFrame, at, len(p))
		}
		// The field has the sum of the pseudo-header.
		sum(0).addBytes(p[start:]).put(p[at:])
	}
	s.head, s.pending = p, true
	return nil
}

// LoadTCP takes one TCP packet without a virtio-net header, and with a payload in pieces, to be cut into segments of so many bytes. The headers,
// of which the checksums don't matter, are changed. The payload may be empty, and segment is of no account then: TCP sends resets before it knows what it may be. The rest is as with Load.
func (s *Splitter) LoadTCP(headers []byte, payload [][]byte, segment int) error {
	s.clear()
	if len(headers) < ipv4Size {
		return fmt.Errorf("%w: headers of %d bytes", ErrFrame, len(headers))
	}
	size := 0
	for _, piece := range payload {
		size += len(piece)
	}
	if size == 0 { // it is prepared as if it had a byte, which is its last segment
		segment = 1
	}
	s.h = header{gsoType: gsoTCPv4, segment: uint16(max(0, min(segment, maxPacket))), sumStart: uint16(headers[0]&0xf) * 4, sumOffset: tcpSum}
	if headers[0]>>4 == 6 {
		s.h.gsoType, s.h.sumStart = gsoTCPv6, ipv6Size
	}
	if err := s.prepare(headers, len(headers)+max(size, 1)); err != nil {
		return err
	}
	if int(s.h.headers) != len(headers) {
		return fmt.Errorf("%w: headers of %d bytes, not %d", ErrFrame, s.h.headers, len(headers))
	}
	s.head, s.more, s.left, s.pending = headers, payload, size, true
	return nil
}

func (s *Splitter) clear() {
	s.head, s.payload, s.more, s.left, s.count, s.pending = nil, nil, nil, 0, 0, false
}

// prepare makes the headers of a packet of so many bytes ready to be copied in front of each segment.
func (s *Splitter) prepare(p []byte, length int) error {
	start := int(s.h.sumStart)
	var addresses []byte
	switch version := p[0] >> 4; {
	case version == 4 && (s.h.gsoType == gsoTCPv4 || s.h.gsoType == gsoUDP):
		if start != int(p[0]&0xf)*4 || start < ipv4Size {
			return fmt.Errorf("%w: transport header at %d", ErrFrame, start)
		}
		s.ipv6, addresses = false, p[ipv4Addrs:ipv4Addrs+8]
	case version == 6 && (s.h.gsoType == gsoTCPv6 || s.h.gsoType == gsoUDP):
		if start < ipv6Size {
			return fmt.Errorf("%w: transport header at %d", ErrFrame, start)
		}
		s.ipv6, addresses = true, p[ipv6Addrs:min(ipv6Addrs+32, len(p))]
	default:
		return fmt.Errorf("%w: segmentation %d of IP version %d", ErrFrame, s.h.gsoType, version)
	}
	// The length of the headers in h can be that of the first packet when the frame was forwarded, so that it is read from the packet.
	s.udp = s.h.gsoType == gsoUDP
	size, protocol := udpSize, uint8(protoUDP)
	if !s.udp {
		if len(p) < start+tcpSize {
			return fmt.Errorf("%w: %d bytes with a TCP header at %d", ErrFrame, len(p), start)
		}
		size, protocol = int(p[start+12]>>4)*4, protoTCP
		if size < tcpSize {
			return fmt.Errorf("%w: TCP header of %d bytes", ErrFrame, size)
		}
	}
	at := start + int(s.h.sumOffset)
	if len(p) < start+size || length <= start+size || s.h.segment == 0 || int(s.h.sumOffset)+2 > size {
		return fmt.Errorf("%w: %d bytes, headers of %d, segments of %d, checksum at %d", ErrFrame, length, start+size, s.h.segment, at)
	}
	s.h.headers = uint16(start + size)
	p[at], p[at+1] = 0, 0
	s.pseudo = pseudoHeader(addresses, protocol, 0)
	if !s.udp {
		s.seq = binary.BigEndian.Uint32(p[start+4:])
	}
	if !s.ipv6 {
		s.id = binary.BigEndian.Uint16(p[4:])
		clear(p[2:6])
		clear(p[ipv4Sum : ipv4Sum+2])
		s.ip = sum(0).addBytes(p[:start])
	}
	return nil
}

// Pending reports whether there are packets left of the frame.
func (s *Splitter) Pending() bool { return s.pending }

// Next puts the next packet into dst and returns its length in bytes. A dst that is too short is an error, and the frame is dropped.
func (s *Splitter) Next(dst []byte) (int, error) {
	if s.h.gsoType != gsoNone {
		return s.segment(dst)
	}
	p := s.head
	s.clear()
	if len(p) > len(dst) {
		return 0, fmt.Errorf("packet of %d bytes: %w", len(p), io.ErrShortBuffer)
	}
	return copy(dst, p), nil
}

// segment is Next for a frame of several packets.
func (s *Splitter) segment(dst []byte) (int, error) {
	headers, start := int(s.h.headers), int(s.h.sumStart)
	n := headers + min(int(s.h.segment), s.left)
	if n > len(dst) {
		s.clear()
		return 0, fmt.Errorf("packet of %d bytes: %w", n, io.ErrShortBuffer)
	}
	dst = dst[:n]
	copy(dst, s.head)
	s.take(dst[headers:])
	last := s.left == 0

	if s.ipv6 {
		binary.BigEndian.PutUint16(dst[4:], uint16(n-ipv6Size))
	} else {
		id := s.id + s.count
		binary.BigEndian.PutUint16(dst[2:], uint16(n))
		binary.BigEndian.PutUint16(dst[4:], id)
		s.ip.add16(uint16(n)).add16(id).put(dst[ipv4Sum:])
	}
	transport := dst[start:headers]
	if s.udp {
		binary.BigEndian.PutUint16(transport[4:], uint16(n-start))
	} else {
		binary.BigEndian.PutUint32(transport[4:], s.seq+uint32(s.count)*uint32(s.h.segment))
		if !last {
			transport[tcpFlags] &^= flagFIN | flagPSH
		}
	}
	s.pseudo.add16(uint16(n - start)).addBytes(dst[start:]).put(transport[s.h.sumOffset:])
	if s.udp && transport[udpSum] == 0 && transport[udpSum+1] == 0 {
		transport[udpSum], transport[udpSum+1] = 0xff, 0xff // zero means that there is none (RFC 768)
	}
	s.count++
	if last {
		s.clear()
	}
	return n, nil
}

// take fills dst with the payload that comes next, of which there is enough.
func (s *Splitter) take(dst []byte) {
	s.left -= len(dst)
	for {
		n := copy(dst, s.payload)
		s.payload, dst = s.payload[n:], dst[n:]
		if len(dst) == 0 {
			return
		}
		s.payload, s.more = s.more[0], s.more[1:]
	}
}
