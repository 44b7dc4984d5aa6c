package tun

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

// tunRdev is the number of /dev/net/tun (Documentation/admin-guide/devices.txt).
var tunRdev = unix.Mkdev(10, 200)

// OpenFile makes the interface name in the network namespace of the calling thread, down and without addresses, for [FromFile] in a
// process that may be in another one. Where the TUN device can't be opened, as in user namespaces, it is one end of a veth pair, and the
// file a packet socket on the other end; CAP_NET_ADMIN and CAP_NET_RAW are needed. An mtu of 0 is DefaultMTU; [Configure] sets the final one.
//
// A TUN device disappears with the last copy of its file. A veth pair stays as long as the namespace. Either file keeps the namespace.
//
// Nobody may call Fd on a copy of the file once FromFile has it: that makes the reads of all copies block.
//
// The error matches ErrName, ErrExists, ErrPermission or ErrNoDriver where one of these is the cause.
func OpenFile(name string, mtu int) (*os.File, error) {
	mtu, err := checkOpen(name, mtu)
	if err != nil {
		return nil, err
	}
	fd, err := openFD(name, mtu)
	if errors.Is(err, ErrPermission) || errors.Is(err, ErrNoDriver) {
		tunErr := err
		if fd, err = openPair(name, mtu); err != nil {
			err = fmt.Errorf("%w; nor a veth pair instead: %w", tunErr, err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openFD makes a TUN device.
func openFD(name string, mtu int) (int, error) {
	fd, err := attachNew(name)
	if err != nil {
		return -1, err
	}
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetMTU(link, mtu)
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("set MTU %d: %w", mtu, netlinkError(err)), unix.Close(fd))
	}
	return fd, nil
}

// FromFile makes a device of a file of [OpenFile], wherever that was made. The file is the device's from then on, and closed with it; if there
// is an error it stays the caller's. What an interface sends before that may be lost.
//
// The device says the mtu that it was given, and that it is up: it can't know whether the interface is. It ends (os.ErrClosed) when the
// interface is deleted or, if it is one end of a veth pair, the other one set down.
//
// The device has a method more, as that of [Open] has on Linux:
//
//	// Interrupt makes the Read that waits for a packet, or else the next one that would have to wait, return (0, nil). Several may
//	// count as one. It may be called at any time, by any goroutine; after Close it does nothing.
//	Interrupt()
func FromFile(file *os.File, mtu int) (wgtun.Device, error) {
	d, err := fromFile(file, mtu)
	if err != nil {
		return nil, fmt.Errorf("interface from %s: %w", file.Name(), err)
	}
	_ = file.Close() // the device has a copy
	return d, nil
}

func fromFile(file *os.File, mtu int) (*kernelDevice, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var l *fixedLink
	var idErr error
	packets := false
	err = raw.Control(func(fd uintptr) {
		l = &fixedLink{mtu: mtu, events: make(chan wgtun.Event, 1)}
		l.name, packets, idErr = identify(int(fd))
	})
	if err = errors.Join(err, idErr); err != nil {
		return nil, err
	}
	l.events <- wgtun.EventUp
	if l.file, err = duplicate(raw, file.Name()); err != nil {
		return nil, err
	}
	var d *kernelDevice
	if packets {
		d, err = newPackets(l)
	} else {
		d, err = newTUN(l)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return d, nil
}

// identify finds out what the file is, and refuses what OpenFile does not make.
func identify(fd int) (name string, packets bool, err error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return "", false, err
	}
	switch {
	case stat.Mode&unix.S_IFMT == unix.S_IFCHR && stat.Rdev == tunRdev:
		name, err = tunName(fd)
		return name, false, err
	case stat.Mode&unix.S_IFMT == unix.S_IFSOCK:
		name, err = packetName(fd)
		return name, true, err
	}
	return "", false, errors.New("neither a TUN device nor a packet socket")
}

// duplicate makes another file of the descriptor: the runtime's poller takes on a file only if it does not block by then, and what Fd or
// another process has done to this one nobody knows.
func duplicate(raw syscall.RawConn, name string) (*os.File, error) {
	fd := -1
	var dupErr error
	err := raw.Control(func(old uintptr) {
		if fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0); dupErr == nil {
			dupErr = unix.SetNonblock(fd, true)
		}
	})
	if err = errors.Join(err, dupErr); err == nil {
		return os.NewFile(uintptr(fd), name), nil
	}
	if fd >= 0 {
		err = errors.Join(err, unix.Close(fd))
	}
	return nil, err
}

// tunName returns the name of the interface, in whatever namespace it is.
func tunName(fd int) (string, error) {
	request, err := unix.NewIfreq("")
	if err != nil {
		return "", err
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, request); err != nil {
		return "", fmt.Errorf("TUNGETIFF: %w (is it attached to an interface?)", err)
	}
	// IFF_NO_PI can't be told: the kernel has IFF_NOFILTER in its place here. With packet information no frame would make sense.
	const kind = unix.IFF_TUN | unix.IFF_TAP | unix.IFF_VNET_HDR
	if got := request.Uint16(); got&kind != attachFlags&kind {
		return "", fmt.Errorf("TUN device with flags %#x, want %#x (IFF_TUN, IFF_VNET_HDR)", got, attachFlags&kind)
	}
	return request.Name(), nil
}

// packetName checks that the socket is bound to the outer end of a pair, and returns the name of the inner one.
func packetName(fd int) (string, error) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return "", fmt.Errorf("SO_DOMAIN: %w", err)
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return "", fmt.Errorf("SO_TYPE: %w", err)
	}
	if domain != unix.AF_PACKET || kind != unix.SOCK_RAW {
		return "", fmt.Errorf("socket of family %d and type %d, want a packet socket (%d, %d)", domain, kind, unix.AF_PACKET, unix.SOCK_RAW)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return "", fmt.Errorf("getsockname: %w", err)
	}
	at, ok := sa.(*unix.SockaddrLinklayer)
	if !ok || int(at.Halen) != len(outerMAC) || net.HardwareAddr(at.Addr[:at.Halen]).String() != outerMAC.String() {
		return "", errors.New("packet socket that is not bound to the other end of an interface of wice-go")
	}
	return pairName(fd, at.Ifindex)
}

// fixedLink is a link of which this process sees no more than the file.
type fixedLink struct {
	file    *os.File
	name    string
	mtu     int
	events  chan wgtun.Event
	release func() error // nil if there is nothing
	once    sync.Once
}

func (l *fixedLink) File() *os.File             { return l.file }
func (l *fixedLink) MTU() (int, error)          { return l.mtu, nil }
func (l *fixedLink) Name() (string, error)      { return l.name, nil }
func (l *fixedLink) Events() <-chan wgtun.Event { return l.events }

// Close returns when no Read or Write uses the file or the ring any more, as os.File's does. Later calls do nothing.
func (l *fixedLink) Close() (err error) {
	l.once.Do(func() {
		close(l.events)
		err = l.file.Close()
		if l.release != nil {
			err = errors.Join(err, l.release())
		}
	})
	return err
}
