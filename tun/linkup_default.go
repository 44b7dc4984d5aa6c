//go:build !linux

package tun

import "os"

// LinkUp leaves it to the events of the device.
func LinkUp(*os.File) (up, known bool) { return false, false }
