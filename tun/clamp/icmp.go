package clamp

import (
	"encoding/binary"
	"net/netip"
)

const (
	// headroom is in front of each packet that is written: what the TUN of Linux needs for its own header.
	headroom = 16
	// maxICMP is the largest message, that of IPv6.
	maxICMP = minMTU6
	// maxICMP4 is the largest of IPv4 (RFC 1812, section 4.3.2.3).
	maxICMP4 = 576

	icmpHeader = 8

	typeUnreachable     = 3 // ICMPv4, RFC 792
	codeFragNeeded      = 4
	typePacketTooBig    = 2 // ICMPv6, RFC 4443, section 3.2
	firstInformational6 = 128

	messageTTL = 64
)

// answerable reports whether an error message about the packet may be sent (RFC 1122, section 3.2.2, and RFC 4443, section 2.4).
func (p *packet) answerable() bool {
	src, dst := p.src(), p.dst()
	if src.IsUnspecified() || src.IsMulticast() || src.IsLoopback() || dst.IsMulticast() {
		return false
	}
	if p.v4 {
		broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
		if src == broadcast || dst == broadcast || p.fragmentField()&offsetMask != 0 {
			return false
		}
		return p.payload != protoICMP || len(p.b) > p.header && isQuery4(p.b[p.header])
	}
	return p.payload != protoICMP6 || len(p.b) > p.header && p.b[p.header] >= firstInformational6
}

// isQuery4 reports whether an ICMPv4 message is no error: an echo, a timestamp.
func isQuery4(typ byte) bool {
	switch typ {
	case 0, 8, 13, 14:
		return true
	}
	return false
}

// appendTooBig appends to b the message that the packet is larger than limit. It comes from where the packet was to go: that is an
// address which the interface has a route to, so that no filter of reverse paths drops it.
func (p *packet) appendTooBig(b []byte, limit int) []byte {
	start := len(b)
	if p.v4 {
		quoted := p.b[:min(len(p.b), maxICMP4-headerSize4-icmpHeader)]
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(headerSize4+icmpHeader+len(quoted)))
		b = append(b, 0, 0, flagDF>>8, 0, messageTTL, protoICMP, 0, 0)
		b = append(b, p.b[16:20]...)
		b = append(b, p.b[12:16]...)
		binary.BigEndian.PutUint16(b[start+10:], ^sum(0, b[start:]))
		icmp := len(b)
		b = append(b, typeUnreachable, codeFragNeeded, 0, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(limit)) // RFC 1191, section 4
		b = append(b, quoted...)
		binary.BigEndian.PutUint16(b[icmp+2:], ^sum(0, b[icmp:]))
		return b
	}
	quoted := p.b[:min(len(p.b), maxICMP-headerSize6-icmpHeader)]
	length := uint16(icmpHeader + len(quoted))
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, length)
	b = append(b, protoICMP6, messageTTL)
	b = append(b, p.b[24:40]...)
	b = append(b, p.b[8:24]...)
	icmp := len(b)
	b = append(b, typePacketTooBig, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(max(limit, minMTU6)))
	b = append(b, quoted...)
	// The pseudo-header of RFC 8200, section 8.1.
	pseudo := sum(uint32(length)+protoICMP6, b[start+8:start+40])
	binary.BigEndian.PutUint16(b[icmp+2:], ^sum(uint32(pseudo), b[icmp:]))
	return b
}

// sum adds the words of b in ones' complement (RFC 1071).
func sum(s uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
