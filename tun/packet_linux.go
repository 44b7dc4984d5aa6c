package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/wice-go/wice-go/tun/offload"
)

// A veth pair takes the place of a TUN device where /dev/net/tun can't be opened:
//
//	inner end: the interface, with addresses and routes | outer end: up, without addresses; a packet socket has its frames
//
// A frame on the packet socket (packet(7), PACKET_VNET_HDR) is
//
//	virtio-net header (10 bytes, whose offsets count from the next one) | Ethernet header (14) | IP packet
//
// in either direction. What the kernel sends lies in a ring that it shares with the process (PACKET_RX_RING): a receive queue holds about
// 200 KiB, which is three long frames, and only root could enlarge it. The slots of TPACKET_V2 have one size, that of the longest frame. Those
// of TPACKET_V3 have not, but a reader learns of frames only when a block is full or a timer has run out.
const (
	etherSize = 14
	headSize  = offload.HeaderSize + etherSize

	slotSize      = 1<<16 + 128 // the longest frame, the slot's own header, and a multiple of 16 that is no power of two, for the caches' sake
	blockSize     = 1 << 20     // in one piece if the kernel has one; a multiple of any page size
	blockCount    = 16          // 240 slots; fewer carry TCP as fast, but lose more of small packets while the reader waits for a processor
	slotsPerBlock = blockSize / slotSize
	slotCount     = blockCount * slotsPerBlock
	ringSize      = blockCount * blockSize
)

// The addresses of the ends, locally administered. Each pair has the same, as nobody else is on its link.
var (
	innerMAC = net.HardwareAddr{2, 'w', 'i', 'c', 'e', 1}
	outerMAC = net.HardwareAddr{2, 'w', 'i', 'c', 'e', 0}
)

// packetPort is a packet socket on the outer end.
type packetPort struct {
	ring []byte
	slot int  // the next one
	held bool // the frame in it was handed out

	heads [][headSize]byte
	msgs  []unix.Mmsghdr
}

// newPackets makes a device of a packet socket.
func newPackets(l *fixedLink) (*kernelDevice, error) {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var p *packetPort
	var portErr error
	err = raw.Control(func(fd uintptr) { p, portErr = newPacketPort(int(fd)) })
	if err = errors.Join(err, portErr); err != nil {
		return nil, err
	}
	l.release = p.close
	return newDevice(l, p, segmentsUDP())
}

// newPacketPort gives the socket a ring, in which frames are from now on. It needs no privilege.
//
// The ring is made here and not where the socket is: nobody could be asked for its shape.
func newPacketPort(fd int) (*packetPort, error) {
	// A ring that a process has left behind which had the socket before.
	if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &unix.TpacketReq{}); err != nil {
		return nil, fmt.Errorf("PACKET_RX_RING: %w (is another process using the socket?)", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return nil, fmt.Errorf("PACKET_VERSION: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil { // with a ring since Linux 4.6
		return nil, fmt.Errorf("PACKET_VNET_HDR: %w", err)
	}
	request := &unix.TpacketReq{Block_size: blockSize, Block_nr: blockCount, Frame_size: slotSize, Frame_nr: slotCount}
	if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, request); err != nil {
		return nil, fmt.Errorf("PACKET_RX_RING: %w", err)
	}
	ring, err := unix.Mmap(fd, 0, ringSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the ring of the packet socket: %w", err)
	}
	return &packetPort{ring: ring}, nil
}

// close is called when nobody receives any more.
func (p *packetPort) close() error { return unix.Munmap(p.ring) }

func (p *packetPort) receive(uintptr) ([]byte, unix.Errno) {
	if p.held {
		p.release()
	}
	for {
		slot := p.current()
		status := atomic.LoadUint32(slotStatus(slot))
		if status&unix.TP_STATUS_USER == 0 {
			return nil, unix.EAGAIN
		}
		if frame := frameIn(slot, status); frame != nil {
			p.held = true
			return frame, 0
		}
		p.release()
	}
}

func (p *packetPort) current() []byte {
	at := p.slot/slotsPerBlock*blockSize + p.slot%slotsPerBlock*slotSize
	return p.ring[at:][:slotSize]
}

// slotStatus is the word that says whose the slot is; it is written after all else (linux/if_packet.h).
func slotStatus(slot []byte) *uint32 { return &(*unix.Tpacket2Hdr)(unsafe.Pointer(&slot[0])).Status }

// release gives the slot back to the kernel.
func (p *packetPort) release() {
	atomic.StoreUint32(slotStatus(p.current()), unix.TP_STATUS_KERNEL)
	p.slot = (p.slot + 1) % slotCount
	p.held = false
}

// frameIn returns the frame of a slot as that of a TUN device, or nil if it has no IP packet, has a VLAN tag or was cut. The virtio-net header is
// moved over the Ethernet header. Whoever gave us the socket can write to the ring too, so nothing is read twice.
func frameIn(slot []byte, status uint32) []byte {
	h := *(*unix.Tpacket2Hdr)(unsafe.Pointer(&slot[0]))
	start, end := int(h.Mac), int(h.Mac)+int(h.Snaplen)
	if status&unix.TP_STATUS_VLAN_VALID != 0 || h.Snaplen != h.Len || start < int(unsafe.Sizeof(h))+offload.HeaderSize ||
		start+etherSize > end || end > len(slot) {
		return nil
	}
	switch binary.BigEndian.Uint16(slot[start+12:]) {
	case unix.ETH_P_IP, unix.ETH_P_IPV6:
	default:
		return nil
	}
	frame := slot[start+etherSize-offload.HeaderSize : end]
	copy(frame, slot[start-offload.HeaderSize:start])
	offload.Shift(frame, -etherSize)
	return frame
}

// failed tells that the outer end is down, which happens only when the pair is deleted or by intention: the kernel first sets down what it
// deletes, and gives the error only then. That the namespace has lost its last process nobody is told: the socket keeps it.
func (p *packetPort) failed(fd uintptr) unix.Errno {
	errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return 0
	}
	return unix.Errno(errno)
}

func (p *packetPort) appendHead(iovs []unix.Iovec, n int, first []byte) []unix.Iovec {
	for len(p.heads) <= n {
		var head [headSize]byte
		copy(head[offload.HeaderSize:], innerMAC)
		copy(head[offload.HeaderSize+len(innerMAC):], outerMAC)
		p.heads = append(p.heads, head)
	}
	head := p.heads[n][:]
	copy(head, first[:offload.HeaderSize])
	offload.Shift(head, etherSize)
	packet := first[offload.HeaderSize:]
	protocol := uint16(unix.ETH_P_IP)
	if len(packet) > 0 && packet[0]>>4 == 6 {
		protocol = unix.ETH_P_IPV6
	}
	binary.BigEndian.PutUint16(head[headSize-2:], protocol)
	return append(iovs, iovec(head), iovec(packet))
}

// send drops what finds no room behind the socket.
func (p *packetPort) send(fd uintptr, frames [][]unix.Iovec) (int, unix.Errno) {
	p.msgs = p.msgs[:0]
	for _, f := range frames {
		m := unix.Mmsghdr{Hdr: unix.Msghdr{Iov: &f[0]}}
		m.Hdr.SetIovlen(len(f))
		p.msgs = append(p.msgs, m)
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&p.msgs[0])), uintptr(len(p.msgs)), unix.MSG_DONTWAIT, 0, 0)
	clear(p.msgs)
	switch errno {
	case 0:
		return int(n), 0
	case unix.ENOBUFS:
		return 1, 0
	}
	return 0, errno
}
