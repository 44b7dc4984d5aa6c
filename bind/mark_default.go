//go:build !linux && !freebsd

package bind

import "syscall"

// markConn does nothing: the system has no marks, and WireGuard sets them wherever a configuration asks for one.
func markConn(syscall.RawConn, uint32) error { return nil }
