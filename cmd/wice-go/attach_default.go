//go:build !linux

package main

import (
	"context"
	"errors"
	"os"

	wgtun "golang.zx2c4.com/wireguard/tun"

	"github.com/wice-go/wice-go/device/control"
)

func (r *running) share(dev wgtun.Device, _ bool) wgtun.Device { return dev }

// Network implements [control.Daemon].
func (d *daemon) Network(context.Context) (control.Network, error) {
	return control.Network{}, errors.ErrUnsupported
}

// Attach implements [control.Daemon].
func (d *daemon) Attach(file *os.File) (control.Attached, error) {
	return nil, errors.Join(errors.ErrUnsupported, file.Close())
}
