package bind

import "encoding/binary"

// packetKind says who a datagram on the shared sockets is for.
type packetKind uint8

const (
	kindOther packetKind = iota
	kindWireGuard
	kindSTUN
)

const (
	// WireGuard's messages, section 5.4 of its paper: a type of 1 to 4 as a little-endian 32-bit number.
	typeInitiation   = 1
	typeTransport    = 4
	initiationSize   = 148
	minWireGuardSize = 32 // a keepalive: the shortest message of all

	// STUN's header, RFC 8489, section 5.
	stunHeaderSize = 20
	stunCookie     = 0x2112A442
)

// classify looks at the first bytes of a datagram. WireGuard's shape is tried first: the place of STUN's cookie is WireGuard's
// receiver index, so that asking for the cookie first would make one session in 2^32 unreachable. In the other direction nothing
// is lost: a STUN message that begins with the bytes 1 to 4, 0, 0, 0 has no attributes, so it has 20 bytes and not 32.
func classify(b []byte) packetKind {
	if isWireGuard(b) {
		return kindWireGuard
	}
	if len(b) >= stunHeaderSize &&
		b[0]&0xC0 == 0 &&
		binary.BigEndian.Uint32(b[4:]) == stunCookie &&
		int(binary.BigEndian.Uint16(b[2:])) == len(b)-stunHeaderSize &&
		len(b)%4 == 0 {
		return kindSTUN
	}
	return kindOther
}

func isWireGuard(b []byte) bool {
	if len(b) < minWireGuardSize {
		return false
	}
	t := binary.LittleEndian.Uint32(b)
	return t >= typeInitiation && t <= typeTransport
}

// isInitiation reports whether b is a handshake initiation, the one message worth keeping for a peer without a path.
func isInitiation(b []byte) bool {
	return len(b) == initiationSize && binary.LittleEndian.Uint32(b) == typeInitiation
}
