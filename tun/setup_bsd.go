//go:build darwin || freebsd

package tun

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// setUp does what wg-quick does on this system, in its order, through ifconfig and route: addresses, MTU, up, routes, DNS.
// Neither has policy routing, so a default route is made of two halves, which win over the real one and leave it alone.
// The tunnel's own sockets must then be bound to the underlying interface: peers that ICE finds cannot be known here,
// so no routes to them are pinned.
func (d *Configured) setUp() error {
	link, err := net.InterfaceByName(d.name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", d.name, err)
	}
	if err := d.journal.begin(step{Kind: stepLink, Interface: d.name, Index: link.Index}); err != nil {
		return err
	}
	if err := d.addAddresses(link); err != nil {
		return err
	}
	mtu := d.config.MTU
	if mtu == 0 {
		mtu = defaultMTU()
	}
	if err := run("ifconfig", d.name, "mtu", strconv.Itoa(mtu)); err != nil {
		return err
	}
	if err := run("ifconfig", d.name, "up"); err != nil {
		return err
	}
	if err := d.addRoutes(d.config.Routes); err != nil {
		return err
	}
	return d.setDNS(link.Index)
}

func (d *Configured) addAddresses(link *net.Interface) error {
	there, err := link.Addrs()
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	has := make(map[string]bool)
	for _, a := range there {
		has[a.String()] = true
	}
	for _, p := range d.config.Addresses {
		if has[p.String()] {
			continue
		}
		if err := d.journal.begin(step{Kind: stepAddress, Interface: d.name, Index: link.Index, Prefix: p}); err != nil {
			return err
		}
		if err := run("ifconfig", addressArgs(d.name, p)...); err != nil {
			return err
		}
	}
	return nil
}

// addRoutes adds the routes that the system does not already send into the interface.
func (d *Configured) addRoutes(prefixes []netip.Prefix) error {
	if d.config.Table == TableOff {
		return nil
	}
	table, err := tableArgs(d.config.Table)
	if err != nil {
		return err
	}
	link, err := net.InterfaceByName(d.name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", d.name, err)
	}
	for _, p := range prefixes {
		if _, done := d.journal.find(func(s step) bool { return s.Kind == stepRoute && s.Interface == d.name && s.For == p }); done {
			continue
		}
		parts := []netip.Prefix{p}
		if p.Bits() == 0 && d.config.Table == TableAuto {
			parts = halves(p)
		} else if d.config.Table == TableAuto && routedTo(p) == d.name {
			continue
		}
		for _, part := range parts {
			t := step{Kind: stepRoute, Interface: d.name, Index: link.Index, For: p, Prefix: part, Table: uint32(d.config.Table)}
			if err := d.journal.begin(t); err != nil {
				return err
			}
			if err := run("route", routeArgs("add", t, table)...); err != nil {
				return errors.Join(err, d.journal.forget(t))
			}
		}
	}
	return nil
}

// halves splits a default route in two, each more specific than a default route.
func halves(p netip.Prefix) []netip.Prefix {
	upper := p.Addr().AsSlice()
	upper[0] = 0x80
	high, _ := netip.AddrFromSlice(upper)
	return []netip.Prefix{netip.PrefixFrom(p.Addr(), 1), netip.PrefixFrom(high, 1)}
}

func inet(ipv6 bool) string {
	if ipv6 {
		return "inet6"
	}
	return "inet"
}

func routeArgs(verb string, t step, table []string) []string {
	args := append([]string{"-q", "-n", verb, "-" + inet(t.Prefix.Addr().Is6())}, table...)
	return append(args, t.Prefix.String(), "-interface", t.Interface)
}

// routedTo returns the interface that packets to the prefix leave by, or "".
func routedTo(p netip.Prefix) string {
	return routeField(`(?m)^\s*interface:\s*(\S+)`, "-n", "get", "-"+inet(p.Addr().Is6()), p.String())
}

// defaultMTU is DefaultMTU, or what the interface of the default route leaves room for if that is less.
func defaultMTU() int {
	link, err := net.InterfaceByName(routeField(`(?m)^\s*interface:\s*(\S+)`, "-n", "get", "default"))
	if err != nil {
		return DefaultMTU
	}
	return max(min(DefaultMTU, link.MTU-overhead), minMTU6)
}

// routeField returns what the pattern finds in the answer of route(8), or "".
func routeField(pattern string, args ...string) string {
	tool, err := lookTool("route")
	if err != nil {
		return ""
	}
	out, err := runTool("", tool, args...)
	if err != nil {
		return ""
	}
	if m := regexp.MustCompile(pattern).FindStringSubmatch(out); m != nil {
		return m[1]
	}
	return ""
}

func run(name string, args ...string) error {
	tool, err := lookTool(name)
	if err != nil {
		return err
	}
	_, err = runTool("", tool, args...)
	if err != nil && strings.Contains(err.Error(), "ermission denied") {
		return fmt.Errorf("%w: %w", ErrPermission, err)
	}
	return err
}
