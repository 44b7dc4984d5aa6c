package clamp

import (
	"encoding/binary"
	"net/netip"
)

const (
	// minLimit is the smallest limit: the packets of 576 bytes that every host accepts (RFC 791) come with up to 64 bytes of
	// headers of their own around a tunnel.
	minLimit = 512
	// minMTU6 is IPv6's least MTU (RFC 8200, section 5).
	minMTU6 = 1280

	headerSize4 = 20 // without options
	headerSize6 = 40
)

// IP protocol numbers.
const (
	protoHopByHop = 0
	protoICMP     = 1
	protoTCP      = 6
	protoRouting  = 43
	protoFragment = 44
	protoICMP6    = 58
	protoDestOpts = 60
)

// packet is an IP packet of which the header was checked: it is as long as it says, and so are its parts.
type packet struct {
	b       []byte
	v4      bool
	header  int   // length of the IP header, with options, without extension headers
	payload uint8 // protocol of what follows it
}

// parse checks the header of a packet. The result shares b.
func parse(b []byte) (p packet, ok bool) {
	if len(b) < headerSize4 {
		return p, false
	}
	switch b[0] >> 4 {
	case 4:
		p = packet{b: b, v4: true, header: int(b[0]&0xf) * 4, payload: b[9]}
		return p, p.header >= headerSize4 && p.header <= len(b) && int(binary.BigEndian.Uint16(b[2:])) == len(b)
	case 6:
		if len(b) < headerSize6 {
			return p, false
		}
		p = packet{b: b, header: headerSize6, payload: b[6]}
		return p, int(binary.BigEndian.Uint16(b[4:]))+headerSize6 == len(b)
	}
	return p, false
}

func (p *packet) src() netip.Addr {
	if p.v4 {
		return netip.AddrFrom4([4]byte(p.b[12:16]))
	}
	return netip.AddrFrom16([16]byte(p.b[8:24]))
}

func (p *packet) dst() netip.Addr {
	if p.v4 {
		return netip.AddrFrom4([4]byte(p.b[16:20]))
	}
	return netip.AddrFrom16([16]byte(p.b[24:40]))
}

// The fields of an IPv4 header that are about fragments.
const (
	flagDF     = 0x4000
	flagMF     = 0x2000
	offsetMask = 0x1fff
)

// fragmentField returns flags and offset of an IPv4 packet.
func (p *packet) fragmentField() uint16 { return binary.BigEndian.Uint16(p.b[6:]) }

// fragmentable reports whether a packet that is too large may be cut in pieces. Of IPv6 it may up to the size below which no link is
// allowed, as its sender can't be told to send less.
func (p *packet) fragmentable() bool {
	if p.v4 {
		return p.fragmentField()&flagDF == 0
	}
	return len(p.b) <= minMTU6
}
