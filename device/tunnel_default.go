//go:build !linux

package device

// kindOf leaves it to the sockets.
func kindOf(string) linkKind { return linkUnknown }
