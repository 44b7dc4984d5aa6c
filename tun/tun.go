package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	wgtun "golang.zx2c4.com/wireguard/tun"
)

const (
	// DefaultMTU is the MTU, in bytes, of an interface when nothing else is said: 1500 less the 80 bytes that WireGuard
	// over IPv6 takes (40 IPv6, 8 UDP, 32 WireGuard).
	DefaultMTU = 1420
	// overhead is what WireGuard over IPv6 adds to each packet, in bytes.
	overhead = 80
	// minMTU is the smallest MTU that IPv4 permits (RFC 791), minMTU6 the smallest that IPv6 permits (RFC 8200 section 5).
	minMTU  = 68
	minMTU6 = 1280
	maxMTU  = 65535
	// firstMark is the firewall mark, and routing table, that a full tunnel tries first. It is the one of wg-quick.
	firstMark = 51820
)

var (
	// ErrPermission says that this process may not make or change network interfaces.
	ErrPermission = errors.New("no permission (root or CAP_NET_ADMIN is needed)")
	// ErrExists says that an interface of that name is there already.
	ErrExists = errors.New("an interface of that name exists already")
	// ErrName says that a string cannot name an interface.
	ErrName = errors.New("not an interface name (1 to 15 of a-z A-Z 0-9 _ = + . -)")
	// ErrNoDriver says that the system has no TUN driver, or does not show it to this process.
	ErrNoDriver = errors.New("no TUN driver")
	// ErrUnsupported says that this operating system lacks a way to do what was asked for.
	ErrUnsupported = errors.New("not supported on this operating system")
)

// Config says how an interface is set up. The zero value sets up nothing but the MTU and brings the interface up.
type Config struct {
	// Addresses are those of the interface, with the prefix length of its network.
	Addresses []netip.Prefix
	// MTU is in bytes. 0 takes DefaultMTU, or less where the default route's MTU asks for it.
	MTU int
	// DNS are the resolvers to use while the interface is up; SearchDomains the domains to try.
	DNS           []netip.Addr
	SearchDomains []string
	// Routes are the allowed IPs of all peers.
	Routes []netip.Prefix
	// Table says where Routes go.
	Table Table
	// FwMark is the mark of the tunnel's own packets, which keeps them out of a full tunnel. 0 chooses one if it is needed.
	FwMark uint32
}

// ValidName reports whether s can name an interface, as wg-quick has it. It excludes "." and "..", which no kernel takes.
func ValidName(s string) bool {
	if s == "" || len(s) > 15 || s == "." || s == ".." {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_=+.-") == ""
}

// Open makes a TUN device. An mtu of 0 is DefaultMTU; Configure sets the final one. On macOS the kernel chooses the
// number of "utun", so ask the device for its name. The device disappears with Close or with the process.
//
// The error matches ErrName, ErrExists, ErrPermission or ErrNoDriver where one of these is the cause.
func Open(name string, mtu int) (wgtun.Device, error) {
	mtu, err := checkOpen(name, mtu)
	if err != nil {
		return nil, err
	}
	dev, err := open(name, mtu)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return dev, nil
}

// checkOpen returns the MTU to open an interface with.
func checkOpen(name string, mtu int) (int, error) {
	if !ValidName(name) {
		return 0, fmt.Errorf("open %q: %w", name, ErrName)
	}
	if mtu == 0 {
		mtu = DefaultMTU
	}
	if mtu < minMTU || mtu > maxMTU {
		return 0, fmt.Errorf("open %s: MTU %d is not within %d and %d", name, mtu, minMTU, maxMTU)
	}
	return mtu, nil
}

// CanCreate reports why this process cannot make a TUN device, or nil if it can. It leaves no device behind. The error
// matches ErrPermission or ErrNoDriver where one of these is the cause.
func CanCreate() error {
	if err := canCreate(); err != nil {
		return fmt.Errorf("create a TUN device: %w", err)
	}
	return nil
}

// check refuses what no system could set up, and returns a copy with all prefixes of routes masked, each once.
func (c Config) check(name string) (Config, error) {
	if !ValidName(name) {
		return c, fmt.Errorf("interface %q: %w", name, ErrName)
	}
	if c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU) {
		return c, fmt.Errorf("MTU %d is not within %d and %d", c.MTU, minMTU, maxMTU)
	}
	addresses := make([]netip.Prefix, 0, len(c.Addresses))
	seen := make(map[netip.Prefix]bool)
	for _, a := range c.Addresses {
		if !a.IsValid() || a.Addr().Is4In6() || a.Addr().Zone() != "" || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
			return c, fmt.Errorf("address %v cannot be that of an interface", a)
		}
		if !seen[a] {
			seen[a] = true
			addresses = append(addresses, a)
		}
	}
	c.Addresses = addresses
	for _, a := range c.DNS {
		if !a.IsValid() || a.IsUnspecified() {
			return c, fmt.Errorf("DNS server %v is no address", a)
		}
	}
	for _, d := range c.SearchDomains {
		if !validDomain(d) {
			return c, fmt.Errorf("search domain %q is not a domain", d)
		}
	}
	routes, err := normalRoutes(c.Routes)
	c.Routes = routes
	return c, err
}

// normalRoutes masks the prefixes, drops repetitions and sorts them, longest first, as wg-quick does: a route that
// another one of the same interface covers is left out only where the other was there before.
func normalRoutes(prefixes []netip.Prefix) ([]netip.Prefix, error) {
	routes := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		if !p.IsValid() || p.Addr().Is4In6() {
			return nil, fmt.Errorf("route %v is not a prefix", p)
		}
		routes = append(routes, p.Masked())
	}
	return sortRoutes(routes), nil
}

// validDomain keeps anything out of a resolver's configuration that could end a line or start an option.
func validDomain(s string) bool {
	return len(s) <= 253 && regexp.MustCompile(`^~?[a-zA-Z0-9_]([a-zA-Z0-9_.-]*[a-zA-Z0-9_.])?$`).MatchString(s)
}
