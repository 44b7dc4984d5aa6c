package tun

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// undoer takes back steps. What is gone already counts as taken back, since a step is written down before it is done,
// and since other programs may have cleaned up.
type undoer struct {
	recovering bool             // the process that did the steps is dead
	nl         *netlink.Handle  // opened when first needed
	links      map[linkKey]bool // interfaces asked for so far
}

type linkKey struct {
	name  string
	index int
}

func newUndoer(recovering bool) *undoer {
	return &undoer{recovering: recovering, links: make(map[linkKey]bool)}
}

func (u *undoer) close() {
	if u.nl != nil {
		u.nl.Close()
	}
}

// undo takes one step back.
func (u *undoer) undo(t step) error {
	if u.nl == nil {
		nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		u.nl = nl
	}
	switch t.Kind {
	case stepLink:
		return u.undoLink(t)
	case stepAddress:
		if !u.hasLink(t) {
			return nil
		}
		a := linkAddress(t.Prefix)
		a.LinkIndex = t.Index
		return ignore("remove address "+t.Prefix.String(), u.nl.AddrDel(nil, a), unix.EADDRNOTAVAIL, unix.ENODEV)
	case stepRoute:
		if !u.hasLink(t) {
			return nil
		}
		return ignore("remove route "+t.Prefix.String(), u.nl.RouteDel(linkRoute(t)), unix.ESRCH, unix.ENODEV)
	case stepRule, stepSuppress:
		return ignore(fmt.Sprintf("remove routing rule %d", t.Priority), u.nl.RuleDel(policyRule(t)), unix.ENOENT, unix.ESRCH)
	case stepSysctl:
		return u.undoSysctl(t)
	case stepNFT:
		tool, err := lookTool("nft")
		if err == nil {
			_, err = runTool(nftDelete(t.Interface, t.IPv6), tool, "-f", "-")
		}
		return ignore("remove nft table "+nftTable(t.Interface), err)
	case stepIPTables:
		return ignore("remove iptables rules of "+t.Interface, undoIPTables(t))
	case stepDNS:
		return ignore("reset DNS of "+t.Interface, undoDNS(t, u.hasLink(t)))
	}
	return fmt.Errorf("take back a step of unknown kind %q", t.Kind)
}

// undoLink brings the interface down. When its process is dead the interface should be gone; one that is still there
// is persistent or was inherited by another process, and is removed.
func (u *undoer) undoLink(t step) error {
	if !u.hasLink(t) {
		return nil
	}
	link, err := u.nl.LinkByIndex(t.Index)
	if err != nil {
		return ignore("find interface "+t.Interface, err, unix.ENODEV)
	}
	if u.recovering {
		if link.Type() != "tun" && link.Type() != "tuntap" {
			return nil
		}
		return ignore("remove interface "+t.Interface, u.nl.LinkDel(link), unix.ENODEV)
	}
	return ignore("bring down "+t.Interface, u.nl.LinkSetDown(link), unix.ENODEV)
}

// undoSysctl restores the old value, unless someone has set another one since, or another full tunnel needs ours.
func (u *undoer) undoSysctl(t step) error {
	now, err := readSysctl(t.Key)
	if err != nil || now != t.New {
		return ignore("read sysctl "+t.Key, err, unix.ENOENT)
	}
	rules, err := u.nl.RuleList(netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	for _, r := range rules {
		if r.Invert && r.Mark != 0 && uint32(r.Table) == r.Mark && r.Mark != t.Mark {
			return nil
		}
	}
	return ignore("restore sysctl "+t.Key, writeSysctl(t.Key, t.Old))
}

func undoIPTables(t step) error {
	save, restore := "iptables-save", "iptables-restore"
	if t.IPv6 {
		save, restore = "ip6tables-save", "ip6tables-restore"
	}
	saveTool, err := lookTool(save)
	if err != nil {
		return err
	}
	restoreTool, err := lookTool(restore)
	if err != nil {
		return err
	}
	saved, err := runTool("", saveTool)
	if err != nil {
		return err
	}
	script := iptablesDelete(t.Interface, saved)
	if script == "" {
		return nil
	}
	_, err = runTool(script, restoreTool, "-n")
	return err
}

// hasLink reports whether the very interface of the step is still there. A new one of the same name does not count.
func (u *undoer) hasLink(t step) bool {
	key := linkKey{t.Interface, t.Index}
	has, known := u.links[key]
	if !known {
		link, err := u.nl.LinkByName(t.Interface)
		has = err == nil && link.Attrs().Index == t.Index
		u.links[key] = has
	}
	return has
}

// ignore wraps err, unless it is one of those that say that the thing is gone.
func ignore(action string, err error, gone ...unix.Errno) error {
	for _, g := range gone {
		if errors.Is(err, g) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	return nil
}
