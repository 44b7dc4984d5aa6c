//go:build linux || darwin || freebsd

package tun

import (
	"fmt"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

// Inherit takes over a TUN device that another process has opened, by its descriptor in this one, as wireguard-go does with WG_TUN_FD. The MTU
// becomes DefaultMTU. The device owns the descriptor, which is not inherited further.
func Inherit(fd int) (wgtun.Device, error) {
	unix.CloseOnExec(fd)
	err := unix.SetNonblock(fd, true)
	var dev wgtun.Device
	if err == nil {
		dev, err = fromDescriptor(fd, DefaultMTU)
	}
	if err != nil {
		return nil, fmt.Errorf("TUN device of descriptor %d: %w", fd, err)
	}
	return dev, nil
}
