package device

import "github.com/vishvananda/netlink"

// kindOf asks the kernel.
func kindOf(name string) linkKind {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return linkUnknown
	}
	switch l.Type() {
	case "wireguard":
		return linkWireGuard
	case "tun", "tuntap":
		return linkTUN
	default:
		return linkOther
	}
}
