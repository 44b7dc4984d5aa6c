//go:build !linux && !darwin && !freebsd && !windows

package control

import "errors"

func peerUID(int) (uint32, error) { return 0, errors.ErrUnsupported }
