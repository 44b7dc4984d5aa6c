//go:build !linux && !darwin && !freebsd

package tun

import (
	"fmt"

	wgtun "golang.zx2c4.com/wireguard/tun"
)

// Inherit is not supported here.
func Inherit(fd int) (wgtun.Device, error) {
	return nil, fmt.Errorf("TUN device of descriptor %d: %w", fd, ErrUnsupported)
}
