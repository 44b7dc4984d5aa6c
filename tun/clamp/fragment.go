package clamp

import (
	"encoding/binary"
	"math/rand/v2"
)

// maxPacket is the size of the largest packet that fragments can make up.
const maxPacket = 1<<16 - 1

// fragmentHeader is the length of IPv6's Fragment header (RFC 8200, section 4.5).
const fragmentHeader = 8

// randomID returns where the identifications of fragments begin, for none to be guessed (RFC 7739).
func randomID() uint32 { return rand.Uint32() }

// fragment cuts the packet in pieces of at most limit bytes, and gives each to emit, which must not keep it. The packet may be a
// fragment itself. What can't be cut is dropped.
func (p *packet) fragment(limit int, id uint32, emit func([]byte)) {
	if p.v4 {
		p.fragment4(limit, emit)
	} else {
		p.fragment6(limit, id, emit)
	}
}

// fragment4 follows RFC 791, section 3.2. Later pieces have the options alone that are to be copied.
func (p *packet) fragment4(limit int, emit func([]byte)) {
	field := p.fragmentField()
	offset, rest := field&offsetMask, p.b[p.header:]
	if int(offset)*8+len(rest) > maxPacket {
		return
	}
	header := append([]byte(nil), p.b[:p.header]...)
	piece := make([]byte, 0, limit)
	for first := true; len(rest) > 0; first = false {
		if !first {
			header = copiedOptions(p.b[:p.header])
		}
		n, more := len(rest), field&flagMF != 0
		if n > limit-len(header) {
			n, more = (limit-len(header))&^7, true
		}
		piece = append(append(piece[:0], header...), rest[:n]...)
		piece[0] = 4<<4 | byte(len(header)/4)
		binary.BigEndian.PutUint16(piece[2:], uint16(len(piece)))
		flags := field &^ (offsetMask | flagMF)
		if more {
			flags |= flagMF
		}
		binary.BigEndian.PutUint16(piece[6:], flags|offset)
		binary.BigEndian.PutUint16(piece[10:], 0)
		binary.BigEndian.PutUint16(piece[10:], ^sum(0, piece[:len(header)]))
		emit(piece)
		rest = rest[n:]
		offset += uint16(n / 8)
	}
}

// copiedOptions returns an IPv4 header with those of its options that have the copied flag.
func copiedOptions(header []byte) []byte {
	out := append(make([]byte, 0, len(header)), header[:headerSize4]...)
	for rest := header[headerSize4:]; len(rest) > 0 && rest[0] != optionEnd; {
		n := 1
		if rest[0] != optionNop {
			if len(rest) < 2 || rest[1] < 2 || int(rest[1]) > len(rest) {
				break
			}
			n = int(rest[1])
		}
		if rest[0]&0x80 != 0 {
			out = append(out, rest[:n]...)
		}
		rest = rest[n:]
	}
	for len(out)%4 != 0 {
		out = append(out, optionEnd)
	}
	return out
}

// fragment6 follows RFC 8200, section 4.5: the headers that routers look at are repeated, the rest is cut.
func (p *packet) fragment6(limit int, id uint32, emit func([]byte)) {
	at, next, ok := p.unfragmentable()
	if !ok {
		return
	}
	head := append([]byte(nil), p.b[:at]...)
	rest := p.b[at:]
	var offset uint16 // in bytes, as in the field: the lowest three bits are flags
	more := false
	protocol := p.b[next]
	if protocol == protoFragment {
		if len(rest) < fragmentHeader {
			return
		}
		protocol, id = rest[0], binary.BigEndian.Uint32(rest[4:])
		field := binary.BigEndian.Uint16(rest[2:])
		offset, more = field&^7, field&1 != 0
		rest = rest[fragmentHeader:]
		if int(offset)+len(rest) > maxPacket {
			return
		}
	}
	head[next] = protoFragment
	piece := make([]byte, 0, limit)
	room := (limit - len(head) - fragmentHeader) &^ 7
	if room <= 0 {
		return
	}
	for len(rest) > 0 {
		n, field := min(len(rest), room), offset
		if n < len(rest) || more {
			field |= 1
		}
		piece = append(append(piece[:0], head...), protocol, 0)
		piece = binary.BigEndian.AppendUint16(piece, field)
		piece = binary.BigEndian.AppendUint32(piece, id)
		piece = append(piece, rest[:n]...)
		binary.BigEndian.PutUint16(piece[4:], uint16(len(piece)-headerSize6))
		emit(piece)
		rest = rest[n:]
		offset += uint16(n)
	}
}

// unfragmentable returns the length of the headers up to which nodes on the way look, and where the protocol of what follows them
// stands.
func (p *packet) unfragmentable() (length, next int, ok bool) {
	length, next = headerSize6, 6
	at, typ := headerSize6, 6 // of the header looked at
	for {
		switch proto := p.b[typ]; proto {
		case protoHopByHop, protoRouting, protoDestOpts:
			if at+2 > len(p.b) {
				return 0, 0, false
			}
			n := (int(p.b[at+1]) + 1) * 8
			if at+n > len(p.b) {
				return 0, 0, false
			}
			if proto != protoDestOpts { // destination options count if a routing header follows
				length, next = at+n, at
			}
			typ, at = at, at+n
		default:
			return length, next, true
		}
	}
}
