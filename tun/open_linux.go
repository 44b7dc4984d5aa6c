package tun

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

const clonePath = "/dev/net/tun"

// open makes the file itself rather than by wgtun.CreateTUN, which leaks it when the kernel refuses the name.
func open(name string, mtu int) (wgtun.Device, error) {
	fd, err := attachNew(name)
	if err != nil {
		return nil, err
	}
	return fromDescriptor(fd, mtu)
}

// fromDescriptor takes over a TUN file, which does not block. One without IFF_VNET_HDR, which only others make, is left to wireguard-go.
func fromDescriptor(fd, mtu int) (wgtun.Device, error) {
	file := os.NewFile(uintptr(fd), clonePath)
	dev, err := wgtun.CreateTUNFromFile(file, mtu)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if dev.BatchSize() == 1 {
		return dev, nil
	}
	d, err := newTUN(dev.(*wgtun.NativeTun))
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return d, nil
}

// canCreate makes a device with a name of the kernel's choice. It goes away with its file. Only the attempt tells: in a
// user namespace a process has CAP_NET_ADMIN and still may not touch the network of its parent.
func canCreate() error {
	fd, err := attach("wice%d")
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// attachNew opens a TUN file, which does not block, for an interface that is not there yet.
func attachNew(name string) (int, error) {
	// TUNSETIFF attaches to a persistent TUN device of that name, which belongs to someone else.
	if _, err := netlink.LinkByName(name); err == nil {
		return -1, ErrExists
	}
	fd, err := attach(name)
	if err != nil {
		return -1, err
	}
	// The runtime's poller takes on a file only if it does not block by then.
	if err := unix.SetNonblock(fd, true); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// attachFlags are those of a TUN file. IFF_VNET_HDR lets packets of up to 64 KiB pass in one piece.
const attachFlags = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR

// attach opens a TUN file for a new interface.
func attach(name string) (int, error) {
	fd, err := unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, tunError(clonePath, err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(attachFlags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return -1, errors.Join(tunError("TUNSETIFF", err), unix.Close(fd))
	}
	return fd, nil
}

func tunError(subject string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%s: %w", subject, ErrPermission)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%s: %w (load the module tun, or give the container the device)", subject, ErrNoDriver)
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%s: %w", subject, ErrExists)
	}
	return fmt.Errorf("%s: %w", subject, err)
}
