//go:build darwin || freebsd

package tun

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

func open(name string, mtu int) (wgtun.Device, error) {
	if err := canCreate(); err != nil {
		return nil, err
	}
	if _, err := net.InterfaceByName(name); err == nil {
		return nil, ErrExists
	}
	dev, err := wgtun.CreateTUN(name, mtu)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("%w: %w", ErrPermission, err)
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("%w: %w", ErrExists, err)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %w", ErrNoDriver, err)
	}
	return dev, err
}

// canCreate asks who we are: making a device to find out would leave one behind on FreeBSD, and on macOS would write
// the file that WG_TUN_NAME_FILE names.
func canCreate() error {
	if os.Geteuid() != 0 {
		return ErrPermission
	}
	return nil
}

// fromDescriptor takes over a TUN file, which does not block.
func fromDescriptor(fd, mtu int) (wgtun.Device, error) {
	return wgtun.CreateTUNFromFile(os.NewFile(uintptr(fd), "tun"), mtu)
}
