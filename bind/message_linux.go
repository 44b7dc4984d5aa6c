//go:build !wice_portable

package bind

import (
	"encoding/binary"
	"net/netip"

	"unsafe"

	"golang.org/x/sys/unix"
)

// message is the kernel's struct mmsghdr: a message header and the number of bytes received.
type message struct {
	hdr unix.Msghdr
	n   uint32
}

// control is room for control messages: a PKTINFO of either family and a segment size, in words to be aligned.
type control [8]uint64

const controlSize = int(unsafe.Sizeof(control{}))

func (c *control) bytes() []byte { return unsafe.Slice((*byte)(unsafe.Pointer(c)), controlSize) }

// put appends a control message at offset n and returns the next offset.
func (c *control) put(n int, level, typ int32, data []byte) int {
	b := c.bytes()[n:]
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, typ
	h.SetLen(unix.CmsgLen(len(data)))
	copy(b[unix.CmsgLen(0):], data)
	return n + unix.CmsgSpace(len(data))
}

// putSource appends the source address to send from. The kernel's structures are in_pktinfo (ip(7)) and in6_pktinfo (RFC 3542,
// section 6.2).
func (c *control) putSource(n int, l *local) int {
	if l.addr.Is4() {
		var info [unix.SizeofInet4Pktinfo]byte // ifindex, address to send from, destination (unused)
		binary.NativeEndian.PutUint32(info[:], uint32(l.ifindex))
		a := l.addr.As4()
		copy(info[4:], a[:])
		return c.put(n, unix.IPPROTO_IP, unix.IP_PKTINFO, info[:])
	}
	var info [unix.SizeofInet6Pktinfo]byte // address, ifindex
	a := l.addr.As16()
	copy(info[:], a[:])
	binary.NativeEndian.PutUint32(info[16:], uint32(l.ifindex))
	return c.put(n, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, info[:])
}

// putSegmentSize appends the size of the packets that the kernel shall cut the message into.
func (c *control) putSegmentSize(n int, size int) int {
	var data [2]byte
	binary.NativeEndian.PutUint16(data[:], uint16(size))
	return c.put(n, unix.SOL_UDP, unix.UDP_SEGMENT, data[:])
}

// parse returns what came with a received message of n control bytes: our address, and the size of the packets that the kernel has
// joined (0: it is a single one). Truncated control messages are ignored.
func (c *control) parse(n int) (l local, segment int) {
	rest := c.bytes()[:min(n, controlSize)]
	for len(rest) >= unix.SizeofCmsghdr {
		h, data, next, err := unix.ParseOneSocketControlMessage(rest)
		if err != nil {
			return l, segment
		}
		rest = next
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			l.ifindex = int32(binary.NativeEndian.Uint32(data))
			l.addr = netip.AddrFrom4([4]byte(data[4:8]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			l.addr = netip.AddrFrom16([16]byte(data[:16]))
			l.ifindex = int32(binary.NativeEndian.Uint32(data[16:]))
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 2:
			segment = int(binary.NativeEndian.Uint16(data))
		}
	}
	return l, segment
}

// sockaddr is a socket address as the kernel wants it; of struct sockaddr_in only the first 16 bytes count.
type sockaddr struct {
	raw unix.RawSockaddrInet6
	len uint32
}

// encodeSockaddr encodes the address once, so that sending does not have to.
func encodeSockaddr(ap netip.AddrPort) (sa sockaddr) {
	if ap.Addr().Is4() {
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(&sa.raw))
		in.Family = unix.AF_INET
		in.Addr = ap.Addr().As4()
		putPort(&in.Port, ap.Port())
		sa.len = unix.SizeofSockaddrInet4
		return sa
	}
	sa.raw.Family = unix.AF_INET6
	sa.raw.Addr = ap.Addr().As16()
	sa.raw.Scope_id = scopeOf(ap.Addr().Zone())
	putPort(&sa.raw.Port, ap.Port())
	sa.len = unix.SizeofSockaddrInet6
	return sa
}

// decodeSource reads the address that the kernel wrote.
func decodeSource(raw *unix.RawSockaddrInet6) (s source) {
	if raw.Family == unix.AF_INET {
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(raw))
		s.addr[10], s.addr[11] = 0xff, 0xff
		copy(s.addr[12:], in.Addr[:])
		s.port = getPort(&in.Port)
		return s
	}
	s.addr = raw.Addr
	s.scope = raw.Scope_id
	s.port = getPort(&raw.Port)
	return s
}

func putPort(field *uint16, port uint16) {
	binary.BigEndian.PutUint16(unsafe.Slice((*byte)(unsafe.Pointer(field)), 2), port)
}

func getPort(field *uint16) uint16 {
	return binary.BigEndian.Uint16(unsafe.Slice((*byte)(unsafe.Pointer(field)), 2))
}
