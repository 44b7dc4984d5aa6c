package tun

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addressPatience is for what takes the kernel a millisecond on an idle machine.
const addressPatience = time.Second

// system is the network namespace of the calling thread, seen from one interface.
type system struct {
	nl   *netlink.Handle
	link netlink.Link
	name string
	ipv6 bool // IPv6 is not disabled on the interface
}

func openSystem(name string) (*system, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	link, err := nl.LinkByName(name)
	if err != nil {
		nl.Close()
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	disabled, err := readSysctl("net/ipv6/conf/" + name + "/disable_ipv6")
	return &system{nl: nl, link: link, name: name, ipv6: err == nil && disabled == "0"}, nil
}

func (s *system) close() { s.nl.Close() }

func (s *system) index() int { return s.link.Attrs().Index }

// setUp does what wg-quick does, in its order: addresses, MTU, up, DNS, routes.
func (d *Configured) setUp() error {
	s, err := openSystem(d.name)
	if err != nil {
		return err
	}
	defer s.close()
	if err := d.addAddresses(s); err != nil {
		return err
	}
	if err := d.bringUp(s); err != nil {
		return err
	}
	if err := d.setDNS(s.index()); err != nil {
		return err
	}
	if err := d.addRoutesTo(s, d.config.Routes); err != nil {
		return err
	}
	d.awaitAddresses(s)
	return nil
}

func (d *Configured) addRoutes(prefixes []netip.Prefix) error {
	s, err := openSystem(d.name)
	if err != nil {
		return err
	}
	defer s.close()
	return d.addRoutesTo(s, prefixes)
}

func (d *Configured) addAddresses(s *system) error {
	there, err := s.nl.AddrList(s.link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	has := make(map[netip.Prefix]bool)
	for _, a := range there {
		has[toPrefix(a.IPNet)] = true
	}
	skipped := 0
	var steps []step
	for _, p := range d.config.Addresses {
		switch {
		case has[p]:
		case p.Addr().Is6() && !s.ipv6:
			skipped++
		default:
			steps = append(steps, step{Kind: stepAddress, Interface: d.name, Index: s.index(), Prefix: p})
		}
	}
	if skipped > 0 {
		d.warn(errors.New("IPv6 is disabled here (sysctl net.ipv6.conf.all.disable_ipv6): the interface has no IPv6 address"))
	}
	if err := d.journal.begin(steps...); err != nil {
		return err
	}
	for _, t := range steps {
		if err := s.nl.AddrAdd(s.link, linkAddress(t.Prefix)); err != nil {
			return fmt.Errorf("add address %s: %w", t.Prefix, netlinkError(err))
		}
	}
	return nil
}

func (d *Configured) bringUp(s *system) error {
	mtu := d.config.MTU
	if mtu == 0 {
		mtu = s.defaultMTU(slices.ContainsFunc(d.config.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }))
	}
	if s.link.Attrs().MTU != mtu {
		if err := s.nl.LinkSetMTU(s.link, mtu); err != nil {
			return fmt.Errorf("set MTU %d: %w", mtu, netlinkError(err))
		}
	}
	if s.link.Attrs().Flags&unix.IFF_UP != 0 {
		return nil
	}
	if err := d.journal.begin(step{Kind: stepLink, Interface: d.name, Index: s.index()}); err != nil {
		return err
	}
	if err := s.nl.LinkSetUp(s.link); err != nil {
		return fmt.Errorf("bring up: %w", netlinkError(err))
	}
	return nil
}

// awaitAddresses waits until programs can bind to the addresses: with IPv6 the kernel gets ready for that in the background. What takes longer
// than is waited for comes later.
func (d *Configured) awaitAddresses(s *system) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(addressPatience)
	for _, p := range d.config.Addresses {
		for p.Addr().Is6() && s.ipv6 && !s.isLocal(p.Addr()) && time.Now().Before(deadline) {
			<-tick.C
		}
	}
}

func (s *system) isLocal(a netip.Addr) bool {
	routes, err := s.nl.RouteGet(a.AsSlice())
	return err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL
}

// defaultMTU is DefaultMTU, or what the default route leaves room for if that is less. Unlike wg-quick it never goes
// above, for ICE may later choose a path with a smaller MTU than that of the default route; and not below what IPv6
// needs, because the kernel would drop the interface's IPv6 addresses: fragments of the outer packets are the lesser evil.
func (s *system) defaultMTU(ipv6 bool) int {
	mtu := DefaultMTU
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := s.nl.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_DST)
		if err != nil {
			continue
		}
		routes = slices.DeleteFunc(routes, func(r netlink.Route) bool { return r.LinkIndex == s.index() })
		if len(routes) == 0 {
			continue
		}
		best := slices.MinFunc(routes, func(a, b netlink.Route) int { return a.Priority - b.Priority })
		outer := best.MTU
		if outer == 0 {
			if link, err := s.nl.LinkByIndex(best.LinkIndex); err == nil {
				outer = link.Attrs().MTU
			}
		}
		if outer > 0 {
			mtu = min(mtu, outer-overhead)
			break
		}
	}
	if ipv6 {
		return max(mtu, minMTU6)
	}
	return max(mtu, minMTU)
}

// addRoutesTo adds the routes that are not there yet. It may be called with routes that are.
func (d *Configured) addRoutesTo(s *system, prefixes []netip.Prefix) error {
	if d.config.Table == TableOff {
		return nil
	}
	table, have := uint32(d.config.Table), cover{}
	if table == 0 {
		table = unix.RT_TABLE_MAIN
	} else if table > maxTable {
		return fmt.Errorf("table %d is not within 1 and %d", table, maxTable)
	}
	filter := &netlink.Route{Table: int(table), LinkIndex: s.index()}
	there, err := s.nl.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range there {
		have[toPrefix(r.Dst)] = true
	}
	var steps []step
	var whole []netip.Prefix
	for _, p := range prefixes {
		switch {
		case p.Addr().Is6() && !s.ipv6:
			continue
		case d.config.Table != TableAuto && have[p], d.config.Table == TableAuto && p.Bits() > 0 && have.contains(p):
			continue
		case d.config.Table == TableAuto && p.Bits() == 0:
			whole = append(whole, p)
			continue
		}
		have[p] = true
		steps = append(steps, step{Kind: stepRoute, Interface: d.name, Index: s.index(), For: p, Prefix: p, Table: table})
	}
	if err := d.journal.begin(steps...); err != nil {
		return err
	}
	for i, t := range steps {
		if err := s.addRoute(t); err != nil {
			// The steps from here on were not done, and what they would take back may be someone else's.
			return errors.Join(err, d.journal.forget(steps[i:]...))
		}
	}
	for _, p := range whole {
		if err := d.addDefault(s, p); err != nil {
			return fmt.Errorf("default route %s: %w", p, err)
		}
	}
	return nil
}

func (s *system) addRoute(t step) error {
	err := s.nl.RouteAdd(linkRoute(t))
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add route %s to table %d: another interface has that route%s; remove it, choose another Table or narrow AllowedIPs",
			t.Prefix, t.Table, s.routeOwner(t))
	}
	if err != nil {
		return fmt.Errorf("add route %s to table %d: %w", t.Prefix, t.Table, netlinkError(err))
	}
	return nil
}

// routeOwner names the interface that has the route, in brackets, if it can be found.
func (s *system) routeOwner(t step) string {
	filter := linkRoute(t)
	routes, err := s.nl.RouteListFiltered(family(t.Prefix.Addr().Is6()), filter, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	if err != nil || len(routes) == 0 {
		return ""
	}
	link, err := s.nl.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return ""
	}
	return " (" + link.Attrs().Name + ")"
}

// linkRoute is the route of a step in the kernel's terms, as "ip route add PREFIX dev NAME table N" makes it.
func linkRoute(t step) *netlink.Route {
	r := &netlink.Route{LinkIndex: t.Index, Dst: toIPNet(t.Prefix), Table: int(t.Table), Protocol: unix.RTPROT_BOOT}
	if t.Prefix.Addr().Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	return r
}

// linkAddress is an address in the kernel's terms, as "ip address add PREFIX dev NAME" makes it: a TUN device has no
// broadcast, which the library would otherwise work out.
func linkAddress(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: toIPNet(p)}
	if p.Addr().Is4() {
		a.Broadcast = []byte{0, 0, 0, 0}
	}
	return a
}

func family(ipv6 bool) int {
	if ipv6 {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

func netlinkError(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: %w", ErrPermission, err)
	}
	return err
}

// validMark refuses marks whose number is that of a table with a meaning of its own, since both are the same in a full tunnel.
func validMark(mark uint32) error {
	if mark >= unix.RT_TABLE_COMPAT && mark <= unix.RT_TABLE_LOCAL {
		return fmt.Errorf("FwMark %d is the number of one of the system's routing tables (252 to 255); choose another", mark)
	}
	if mark > math.MaxInt32 {
		return fmt.Errorf("FwMark %#x is greater than %#x, the last routing table", mark, math.MaxInt32)
	}
	return nil
}
