package tun

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addDefault routes everything of one address family into the tunnel, but for the tunnel's own packets, by policy
// routing. In the order in which the kernel asks:
//
//	suppress   the main table, without its default routes: the local network stays reachable
//	not mark   the tunnel's table, for all that does not carry the mark
//	main       the default route, for the tunnel's own packets
func (d *Configured) addDefault(s *system, p netip.Prefix) error {
	ipv6 := p.Addr().Is6()
	if t, done := d.journal.find(func(t step) bool { return t.Kind == stepRule && t.Index == s.index() && t.For == p }); done {
		d.mark = t.Mark
		return nil
	}
	if err := d.chooseMark(s); err != nil {
		return err
	}
	route := step{Kind: stepRoute, Interface: d.name, Index: s.index(), For: p, Prefix: p, Table: d.mark}
	if err := d.journal.begin(route); err != nil {
		return err
	}
	if err := s.addRoute(route); err != nil {
		return errors.Join(err, d.journal.forget(route))
	}
	for _, rule := range []step{
		{Kind: stepRule, Interface: d.name, Index: s.index(), For: p, IPv6: ipv6, Mark: d.mark, Table: d.mark},
		{Kind: stepSuppress, Interface: d.name, Index: s.index(), For: p, IPv6: ipv6, Table: unix.RT_TABLE_MAIN},
	} {
		var err error
		if rule.Priority, err = s.nextPriority(ipv6); err != nil {
			return err
		}
		if err := d.journal.begin(rule); err != nil {
			return err
		}
		if err := s.nl.RuleAdd(policyRule(rule)); err != nil {
			return errors.Join(fmt.Errorf("add rule: %w", netlinkError(err)), d.journal.forget(rule))
		}
	}
	if !ipv6 {
		if err := d.setSrcValidMark(p); err != nil {
			return err
		}
	}
	return d.addFirewall(p)
}

// chooseMark takes the mark of an earlier call, else, as wg-quick does, the first number from firstMark on whose table is
// empty in both families.
func (d *Configured) chooseMark(s *system) error {
	if d.mark != 0 {
		return validMark(d.mark)
	}
	if t, ok := d.journal.find(func(t step) bool { return t.Kind == stepRule && t.Index == s.index() }); ok {
		d.mark = t.Mark
		return nil
	}
	used := make(map[int]bool)
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := s.nl.RouteListFiltered(f, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("list routing tables: %w", err)
		}
		for _, r := range routes {
			used[r.Table] = true
		}
	}
	mark := firstMark
	for used[mark] {
		mark++
	}
	d.mark = uint32(mark)
	return nil
}

// prepareMark is chooseMark for a default route that is yet to come.
func (d *Configured) prepareMark() error {
	s, err := openSystem(d.name)
	if err != nil {
		return err
	}
	defer s.close()
	return d.chooseMark(s)
}

// nextPriority is the priority that the kernel gives a rule without one: just before the second rule. Given explicitly,
// it can be written down beforehand; and the kernel then accepts a rule that another tunnel has too, which it would
// otherwise refuse, so that each tunnel has, and removes, its own.
func (s *system) nextPriority(ipv6 bool) (int, error) {
	rules, err := s.nl.RuleList(family(ipv6))
	if err != nil {
		return 0, fmt.Errorf("list rules: %w", err)
	}
	if len(rules) < 2 {
		return 32765, nil
	}
	if rules[1].Priority < 1 {
		return 0, errors.New("no priority is left before the second routing rule (see ip rule)")
	}
	return rules[1].Priority - 1, nil
}

// policyRule is the rule of a step in the kernel's terms.
func policyRule(t step) *netlink.Rule {
	r := netlink.NewRule()
	r.Family = family(t.IPv6)
	r.Priority = t.Priority
	r.Table = int(t.Table)
	if t.Kind == stepSuppress {
		r.SuppressPrefixlen = 0
		return r
	}
	r.Invert = true
	r.Mark = t.Mark
	return r
}
