package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// outerMark ends the name of an outer end. It is in no name that ValidName takes.
const outerMark = "~"

// outerName is that of the other end of the interface name, which loses its last letter if it is as long as names get.
func outerName(name string) string { return name[:min(len(name), unix.IFNAMSIZ-2)] + outerMark }

// openPair makes a veth pair and returns a packet socket on its outer end.
//
// What differs from a TUN device: the kernel keeps a neighbour for each address that it sends to (a point-to-point interface has one for all), though
// none is ever asked for; and packets that are longer than the inner end's MTU and come alone are lost.
func openPair(name string, mtu int) (fd int, err error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return -1, fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = name, mtu, innerMAC
	pair := netlink.NewVeth(attrs)
	pair.PeerName, pair.PeerHardwareAddr, pair.PeerMTU = outerName(name), outerMAC, maxMTU
	if err := h.LinkAdd(pair); err != nil {
		switch {
		case errors.Is(err, unix.EEXIST):
			err = ErrExists
		case errors.Is(err, unix.EOPNOTSUPP):
			err = fmt.Errorf("%w (load the module veth)", err)
		}
		return -1, fmt.Errorf("add veth pair: %w", netlinkError(err))
	}
	if fd, err = openOuter(h, name); err != nil {
		return -1, errors.Join(err, h.LinkDel(pair))
	}
	return fd, nil
}

// openOuter makes the pair ready, and the socket.
func openOuter(h *netlink.Handle, name string) (fd int, err error) {
	inner, err := h.LinkByName(name)
	if err != nil {
		return -1, fmt.Errorf("veth pair: %w", err)
	}
	outer, err := h.LinkByName(outerName(name))
	if err != nil {
		return -1, fmt.Errorf("veth pair: %w", err)
	}
	// Without ARP nobody is asked for an address, and IPv6 looks for no duplicates and no routers.
	for _, end := range []netlink.Link{inner, outer} {
		if err := h.LinkSetARPOff(end); err != nil {
			return -1, fmt.Errorf("%s: switch ARP off: %w", end.Attrs().Name, netlinkError(err))
		}
		err := h.LinkSetIP6AddrGenMode(end, nl.IN6_ADDR_GEN_MODE_NONE)
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) { // a kernel without IPv6
			return -1, fmt.Errorf("%s: no link-local address: %w", end.Attrs().Name, netlinkError(err))
		}
	}
	// Sysctls can be out of reach, and the pair works without these: nobody on it advertises routes, and the outer end has no address.
	_ = writeSysctl("net/ipv6/conf/"+name+"/accept_ra", "0")
	_ = writeSysctl("net/ipv6/conf/"+name+"/accept_dad", "0")
	_ = writeSysctl("net/ipv6/conf/"+outerName(name)+"/disable_ipv6", "1")
	// A socket on an interface that is down begins with an error.
	if err := h.LinkSetUp(outer); err != nil {
		return -1, fmt.Errorf("bring up %s: %w", outerName(name), netlinkError(err))
	}
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", netlinkError(err))
	}
	err = limitOffloads(fd, name)
	if err == nil {
		// Since Linux 4.20. Without it, each frame that goes in would come back.
		if err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			err = fmt.Errorf("PACKET_IGNORE_OUTGOING: %w", err)
		}
	}
	if err == nil {
		at := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: outer.Attrs().Index}
		if err = unix.Bind(fd, at); err != nil {
			err = fmt.Errorf("bind packet socket to %s: %w", outerName(name), err)
		}
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16([]byte{byte(v >> 8), byte(v)}) }

// pairName returns the name of the inner end of a pair, whose outer end is index in the namespace of the socket.
func pairName(fd, index int) (string, error) {
	var request struct {
		name  [unix.IFNAMSIZ]byte
		index int32
		_     [20]byte
	}
	request.index = int32(index)
	if err := ioctl(fd, unix.SIOCGIFNAME, unsafe.Pointer(&request)); err != nil {
		return "", fmt.Errorf("SIOCGIFNAME: %w", err)
	}
	return strings.TrimSuffix(unix.ByteSliceToString(request.name[:]), outerMark), nil
}

// keptOffloads are what a TUN device offers the kernel (drivers/net/tun.c), by the names that the kernel gives features (net/ethtool/common.c).
// A virtio-net header can tell of these alone: frames with the marks of others (SCTP, tunnels inside, ECN) would be lost, or be understood wrongly.
var keptOffloads = map[string]bool{
	"tx-scatter-gather": true, "tx-scatter-gather-fraglist": true, "tx-checksum-ip-generic": true, "tx-generic-segmentation": true,
	"tx-tcp-segmentation": true, "tx-tcp6-segmentation": true,
}

// segmentsUDP reports whether virtio-net headers tell of joined UDP packets.
func segmentsUDP() bool {
	var name unix.Utsname
	var major, minor int
	if unix.Uname(&name) != nil {
		return false
	}
	n, _ := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	return n == 2 && (major > 6 || major == 6 && minor >= 2)
}

// limitOffloads switches off all others of the interface, which is in the namespace of the socket.
func limitOffloads(fd int, name string) error {
	names, err := featureNames(fd, name)
	if err != nil {
		return fmt.Errorf("%s: names of offloads: %w", name, err)
	}
	blocks := (len(names) + 31) / 32
	set := make([]byte, 8+blocks*8) // command, blocks; each with 32 bits of what is set and as many of what to
	binary.NativeEndian.PutUint32(set, unix.ETHTOOL_SFEATURES)
	binary.NativeEndian.PutUint32(set[4:], uint32(blocks))
	for i, feature := range names {
		if strings.HasPrefix(feature, "tx-") && !keptOffloads[feature] && (feature != "tx-udp-segmentation" || !segmentsUDP()) {
			block := set[8+i/32*8:]
			binary.NativeEndian.PutUint32(block, binary.NativeEndian.Uint32(block)|1<<(i%32))
		}
	}
	if err := ethtool(fd, name, set); err != nil {
		return fmt.Errorf("%s: limit offloads: %w", name, err)
	}
	return nil
}

// featureNames returns what the bits of an interface's features mean.
func featureNames(fd int, name string) ([]string, error) {
	const nameSize, set = 32, 4 // ETH_GSTRING_LEN, ETH_SS_FEATURES
	order := binary.NativeEndian
	info := make([]byte, 20) // command, reserved, mask of 64 bits, count
	order.PutUint32(info, unix.ETHTOOL_GSSET_INFO)
	order.PutUint64(info[8:], 1<<set)
	if err := ethtool(fd, name, info); err != nil {
		return nil, err
	}
	count := order.Uint32(info[16:])
	if count > math.MaxUint16 {
		return nil, fmt.Errorf("there are %d", count)
	}
	all := make([]byte, 12+count*nameSize) // command, set, count, which has to be right, and names
	order.PutUint32(all, unix.ETHTOOL_GSTRINGS)
	order.PutUint32(all[4:], set)
	order.PutUint32(all[8:], count)
	if err := ethtool(fd, name, all); err != nil {
		return nil, err
	}
	names := make([]string, count)
	for i := range names {
		names[i] = unix.ByteSliceToString(all[12+i*nameSize:][:nameSize])
	}
	return names, nil
}

// ethtool makes a request (linux/ethtool.h) about an interface.
func ethtool(fd int, name string, data []byte) error {
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&data[0])}
	copy(request.name[:], name)
	defer runtime.KeepAlive(data)
	return ioctl(fd, unix.SIOCETHTOOL, unsafe.Pointer(&request))
}

func ioctl(fd int, request uint, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}
