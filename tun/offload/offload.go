// Package offload cuts and joins the packets of a TUN device, so that the kernel hands over up to 64 KiB at once in either direction.
// It does no I/O. A frame, as a device with IFF_VNET_HDR reads and writes it, is
//
//	virtio-net header (10 bytes) | IP header | TCP or UDP header | payload of one or more packets
//
// [Splitter] makes the packets of one frame, [Coalescer] the frames of many packets. Neither is safe for concurrent use.
//
// What joins follows the kernel's own rules for generic receive offload (net/ipv4/tcp_offload.c, udp_offload.c): a receiver can't tell joined
// packets from separate ones. Checksums are verified before joining, as the kernel will believe those of a joined frame.
package offload

import (
	"encoding/binary"
	"errors"
)

// HeaderSize is the length in bytes of the virtio-net header in front of each frame, and the room that [Coalescer.Frame] needs there.
const HeaderSize = 10

// MaxFrame is the length in bytes of the longest frame: that of the longest IP packet, and the header.
const MaxFrame = HeaderSize + maxPacket

const maxPacket = 1<<16 - 1

// The values of header (linux/virtio_net.h; Virtual I/O Device 1.2, section 5.1.6).
const (
	flagNeedsChecksum = 1

	gsoNone  = 0
	gsoTCPv4 = 1
	gsoTCPv6 = 4
	gsoUDP   = 5
)

// Offsets and sizes in IP (RFC 791, RFC 8200), TCP (RFC 9293) and UDP (RFC 768) headers, in bytes.
const (
	ipv4Size  = 20 // without options
	ipv6Size  = 40 // without extensions
	tcpSize   = 20 // without options
	udpSize   = 8
	maxTCP    = 60
	protoTCP  = 6
	protoUDP  = 17
	tcpFlags  = 13
	flagFIN   = 0x01
	flagPSH   = 0x08
	flagACK   = 0x10
	tcpSum    = 16
	udpSum    = 6
	ipv4Sum   = 10
	ipv4Addrs = 12
	ipv6Addrs = 8
)

// header is the kernel's struct virtio_net_hdr, in the byte order of the machine.
type header struct {
	flags, gsoType uint8
	headers        uint16 // length of all headers
	segment        uint16 // payload bytes of each packet but the last
	sumStart       uint16 // where the checksum begins: the transport header
	sumOffset      uint16 // where it is put, from there
}

func (h *header) decode(b []byte) {
	h.flags, h.gsoType = b[0], b[1]
	h.headers = binary.NativeEndian.Uint16(b[2:])
	h.segment = binary.NativeEndian.Uint16(b[4:])
	h.sumStart = binary.NativeEndian.Uint16(b[6:])
	h.sumOffset = binary.NativeEndian.Uint16(b[8:])
}

func (h *header) encode(b []byte) {
	b[0], b[1] = h.flags, h.gsoType
	binary.NativeEndian.PutUint16(b[2:], h.headers)
	binary.NativeEndian.PutUint16(b[4:], h.segment)
	binary.NativeEndian.PutUint16(b[6:], h.sumStart)
	binary.NativeEndian.PutUint16(b[8:], h.sumOffset)
}

// Shift adds n bytes to the offsets in the header of a frame: for a packet that comes to lie behind a link header, or no longer does. Nonsense
// becomes other nonsense.
func Shift(frame []byte, n int) {
	var h header
	h.decode(frame)
	h.headers += uint16(n)
	h.sumStart += uint16(n)
	h.encode(frame)
}

// ErrFrame says that a frame is not what the kernel documents. It is wrapped with what is wrong.
var ErrFrame = errors.New("frame of the TUN device")
