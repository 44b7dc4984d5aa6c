//go:build !linux && !darwin && !freebsd && !windows

package tun

import (
	"net/netip"

	wgtun "golang.zx2c4.com/wireguard/tun"
)

func open(string, int) (wgtun.Device, error)                  { return nil, ErrUnsupported }
func canCreate() error                                        { return ErrUnsupported }
func (d *Configured) setUp() error                            { return ErrUnsupported }
func (d *Configured) addRoutes(prefixes []netip.Prefix) error { return ErrUnsupported }

// undoer has nothing to take back.
type undoer struct{}

func newUndoer(bool) *undoer { return &undoer{} }

func (u *undoer) close()          {}
func (u *undoer) undo(step) error { return ErrUnsupported }
