package clamp

import "encoding/binary"

const (
	tcpHeaderSize = 20
	flagSYN       = 0x02

	optionEnd = 0
	optionNop = 1
	optionMSS = 2
)

// syn reports whether the packet is a TCP SYN or SYN-ACK.
func (p *packet) syn() bool {
	if p.payload != protoTCP || len(p.b) < p.header+tcpHeaderSize || p.v4 && p.fragmentField()&offsetMask != 0 {
		return false
	}
	return p.b[p.header+13]&flagSYN != 0
}

// clampMSS lowers the MSS option of a SYN to what fits into packets of limit bytes (RFC 9293, section 3.7.1); limit 0 is none. A SYN
// without the option stays as it is: 536 bytes fit, and for IPv6 what is too much is fragmented.
func (p *packet) clampMSS(limit int) {
	if limit == 0 {
		return
	}
	most := uint16(limit - headerSize6 - tcpHeaderSize)
	if p.v4 {
		most = uint16(limit - headerSize4 - tcpHeaderSize)
	}
	tcp := p.b[p.header:]
	end := int(tcp[12]>>4) * 4
	if end > len(tcp) {
		return
	}
	for i := tcpHeaderSize; i < end; {
		switch tcp[i] {
		case optionEnd:
			return
		case optionNop:
			i++
			continue
		}
		if i+1 >= end {
			return
		}
		n := int(tcp[i+1])
		if n < 2 || i+n > end {
			return
		}
		if tcp[i] == optionMSS && n == 4 {
			old := binary.BigEndian.Uint16(tcp[i+2:])
			if old > most {
				binary.BigEndian.PutUint16(tcp[i+2:], most)
				if i%2 == 1 { // the two bytes are in two words
					old, most = old<<8|old>>8, most<<8|most>>8
				}
				updateChecksum(tcp[16:], old, most)
			}
			return
		}
		i += n
	}
}

// updateChecksum changes a checksum for a word that has changed (RFC 1624, equation 3).
func updateChecksum(sum []byte, old, now uint16) {
	s := uint32(^binary.BigEndian.Uint16(sum)) + uint32(^old) + uint32(now)
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	binary.BigEndian.PutUint16(sum, ^uint16(s))
}
