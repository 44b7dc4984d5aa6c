package offload

import (
	"encoding/binary"
	"math/bits"
)

// A sum is the ones' complement sum of RFC 1071 before it is folded to 16 bits. Words are added in the byte order of the machine, which
// the RFC permits (section 2(B)): the folded sum is then stored in that order too.
type sum uint64

func (s sum) add(v uint64) sum {
	r, carry := bits.Add64(uint64(s), v, 0)
	return sum(r + carry)
}

// add16 adds a number as it stands in a packet.
func (s sum) add16(v uint16) sum {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return s.add(uint64(binary.NativeEndian.Uint16(b[:])))
}

// addBytes adds b, which begins at an even offset of the packet.
func (s sum) addBytes(b []byte) sum {
	acc, carry := uint64(s), uint64(0)
	for len(b) >= 64 {
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b), 0)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[8:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[16:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[24:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[32:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[40:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[48:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[56:]), carry)
		acc += carry
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b), 0)
		acc += carry
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte // zeros change no sum
		copy(last[:], b)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(last[:]), 0)
		acc += carry
	}
	return sum(acc)
}

// fold returns the sum in 16 bits, in the byte order of the machine.
func (s sum) fold() uint16 {
	v := uint64(s)
	v = v>>32 + v&0xffffffff
	v = v>>32 + v&0xffffffff
	v = v>>16 + v&0xffff
	v = v>>16 + v&0xffff
	return uint16(v)
}

// put stores the checksum: the complement of the sum.
func (s sum) put(b []byte) { binary.NativeEndian.PutUint16(b, ^s.fold()) }

// valid reports whether the sum of something that includes its checksum is that of an intact packet.
func (s sum) valid() bool { return s.fold() == 0xffff }

// pseudoHeader begins the sum of a transport header: addresses, protocol and length (RFC 9293, section 3.1; RFC 8200, section 8.1).
func pseudoHeader(addresses []byte, protocol uint8, length int) sum {
	return sum(0).addBytes(addresses).add16(uint16(protocol)).add16(uint16(length))
}
