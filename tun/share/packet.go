package share

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
)

// IANA's numbers of protocols, and the types of ICMP messages that matter here (RFC 792, RFC 4443).
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	echoReply4, echoRequest4 = 0, 8
	echoReply6, echoRequest6 = 129, 128
	firstError6Reserved      = 128 // types below are errors
)

// packet is what tells whose one is.
type packet struct {
	protocol      uint8
	local, remote netip.AddrPort // ports of TCP and UDP; the identifier of ICMP echo is a port of both ends
	inner         bool           // it is the inner stack's to answer
	everyone      bool           // its port can't be told
}

// ports are where in a header the local and the remote port stand.
type ends struct{ src, dst netip.Addr }

// parse looks at a packet to this host.
func parse(b []byte) packet {
	protocol, e, rest, first := network(b)
	if protocol == 0 {
		return packet{inner: true}
	}
	if !first {
		return packet{everyone: true}
	}
	p := packet{protocol: protocol, local: netip.AddrPortFrom(e.dst, 0), remote: netip.AddrPortFrom(e.src, 0)}
	switch protocol {
	case protoTCP, protoUDP:
		if len(rest) >= 4 {
			p.remote = netip.AddrPortFrom(e.src, binary.BigEndian.Uint16(rest))
			p.local = netip.AddrPortFrom(e.dst, binary.BigEndian.Uint16(rest[2:]))
		}
	case protoICMP, protoICMPv6:
		p.parseICMP(rest, e)
	}
	return p
}

// parseICMP tells whose an ICMP message is: an error's is that of the packet which it quotes.
func (p *packet) parseICMP(b []byte, e ends) {
	if len(b) < 8 {
		p.inner = true
		return
	}
	kind, v6 := b[0], p.protocol == protoICMPv6
	switch {
	case !v6 && kind == echoReply4, v6 && kind == echoReply6:
		p.local = netip.AddrPortFrom(e.dst, binary.BigEndian.Uint16(b[4:]))
		return
	case !v6 && kind == echoRequest4, v6 && kind >= firstError6Reserved:
		p.inner = true
		return
	}
	protocol, quoted, rest, first := network(b[8:])
	if protocol == 0 || !first {
		p.everyone = true
		return
	}
	p.protocol = protocol
	p.local, p.remote = netip.AddrPortFrom(quoted.src, 0), netip.AddrPortFrom(quoted.dst, 0)
	switch {
	case (protocol == protoTCP || protocol == protoUDP) && len(rest) >= 4:
		p.local = netip.AddrPortFrom(quoted.src, binary.BigEndian.Uint16(rest))
		p.remote = netip.AddrPortFrom(quoted.dst, binary.BigEndian.Uint16(rest[2:]))
	case (protocol == protoICMP || protocol == protoICMPv6) && len(rest) >= 6:
		p.local = netip.AddrPortFrom(quoted.src, binary.BigEndian.Uint16(rest[4:]))
	}
}

// network takes an IP header off. It is not the first fragment if the transport header is elsewhere. Protocol 0 is no IP, or one that is cut off.
func network(b []byte) (protocol uint8, e ends, rest []byte, first bool) {
	if len(b) < 20 {
		return 0, ends{}, nil, false
	}
	if b[0]>>4 == 4 {
		size := int(b[0]&0xf) * 4
		if size < 20 || size > len(b) {
			return 0, ends{}, nil, false
		}
		offset := binary.BigEndian.Uint16(b[6:]) & 0x1fff
		return b[9], ends{netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))}, b[size:], offset == 0
	}
	if b[0]>>4 != 6 || len(b) < 40 {
		return 0, ends{}, nil, false
	}
	e = ends{netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))}
	protocol, rest = b[6], b[40:]
	for range maxExtensions {
		switch protocol {
		case extHopByHop, extRouting, extDestination:
			if len(rest) < 8 || len(rest) < 8+int(rest[1])*8 {
				return 0, ends{}, nil, false
			}
			protocol, rest = rest[0], rest[8+int(rest[1])*8:]
		case extFragment:
			if len(rest) < 8 {
				return 0, ends{}, nil, false
			}
			if binary.BigEndian.Uint16(rest[2:])&^7 != 0 {
				return rest[0], e, nil, false
			}
			protocol, rest = rest[0], rest[8:]
		default:
			return protocol, e, rest, true
		}
	}
	return 0, ends{}, nil, false
}

// The extension headers of IPv6 that may stand before the transport header (RFC 8200, section 4), and how many of them are looked through.
const (
	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extDestination = 60
	maxExtensions  = 8
)

// nobody owns a port.
const nobody = 0

// owners knows for each local port, or identifier of ICMP echo, the attached stack that has last sent from it: its index plus one.
type owners [3][1 << 16]atomic.Uint32

// kind returns which of the tables a protocol has. Protocols without ports have one entry, that of port 0, in the last.
func kind(protocol uint8) int {
	switch protocol {
	case protoTCP:
		return 0
	case protoUDP:
		return 1
	}
	return 2
}

func (o *owners) of(protocol uint8, port uint16) int { return int(o[kind(protocol)][port].Load()) }

// note writes down whose the port is that a packet comes from.
func (o *owners) note(b []byte, owner uint32) {
	protocol, _, rest, first := network(b)
	if protocol == 0 || !first {
		return
	}
	var port uint16
	switch protocol {
	case protoTCP, protoUDP:
		if len(rest) < 2 {
			return
		}
		port = binary.BigEndian.Uint16(rest)
	case protoICMP, protoICMPv6:
		if len(rest) < 6 || rest[0] != echoRequest4 && rest[0] != echoRequest6 {
			return // answers and errors own nothing
		}
		port = binary.BigEndian.Uint16(rest[4:])
	}
	if entry := &o[kind(protocol)][port]; entry.Load() != owner {
		entry.Store(owner)
	}
}

// forget takes away what a stack owned.
func (o *owners) forget(index int) {
	for k := range o {
		for port := range o[k] {
			o[k][port].CompareAndSwap(uint32(index+1), nobody)
		}
	}
}
