package device

import "github.com/wice-go/wice-go/device/control"

// linkKind says what the system makes of an interface.
type linkKind uint8

const (
	linkUnknown   linkKind = iota
	linkOther              // no tunnel of a program
	linkTUN                // a tunnel of some program
	linkWireGuard          // the kernel's own
)

// isTunnel reports whether an interface of this host is WireGuard's: this one, another one of ours or of wireguard-go, or the kernel's.
// Their addresses are no candidates, since a tunnel in a tunnel pays twice for every packet and is up only as long as the other one. The
// tunnels of other programs may be the only way out, and stay.
func (d *Device) isTunnel(name string) bool {
	if name == d.opts.Name {
		return true
	}
	switch kindOf(name) {
	case linkWireGuard:
		return true
	case linkOther: // a daemon with a userspace stack may have the name of somebody else's interface
		return false
	default:
		return control.SystemPaths().HasSocket(name)
	}
}
