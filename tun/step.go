package tun

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
)

// stepKind names a change that can be taken back.
type stepKind string

const (
	stepLink     stepKind = "link"     // brought up; an interface that outlives its process is removed by Recover
	stepAddress  stepKind = "address"  // Prefix
	stepRoute    stepKind = "route"    // Prefix, Table
	stepRule     stepKind = "rule"     // IPv6, Priority, Mark, Table: what is not marked looks in Table
	stepSuppress stepKind = "suppress" // IPv6, Priority: the main table without its default routes
	stepSysctl   stepKind = "sysctl"   // Key, Old, New
	stepNFT      stepKind = "nft"      // IPv6: the interface's own nftables table
	stepIPTables stepKind = "iptables" // IPv6: the rules that carry the interface's comment
	stepDNS      stepKind = "dns"      // Method, Key, Old
)

// step is one change to the system: enough to take it back, in this process or in the next one.
type step struct {
	Kind      stepKind     `json:"kind"`
	Interface string       `json:"interface"`
	Index     int          `json:"index,omitempty"` // of the interface; the name alone may be someone else's by now
	For       netip.Prefix `json:"for,omitzero"`    // the allowed IP that the change serves, if it serves one
	Prefix    netip.Prefix `json:"prefix,omitzero"` // address or route
	IPv6      bool         `json:"ipv6,omitempty"`
	Table     uint32       `json:"table,omitempty"`
	Mark      uint32       `json:"mark,omitempty"`
	Priority  int          `json:"priority,omitempty"`
	Method    string       `json:"method,omitempty"`
	Key       string       `json:"key,omitempty"`
	Old       string       `json:"old,omitempty"`
	New       string       `json:"new,omitempty"`
}

// durable reports whether the change outlives the interface, and so belongs on disk. The others are kept in memory
// alone: a hub may have 100,000 routes, and they die with the device.
func (s step) durable() bool { return s.Kind != stepAddress && s.Kind != stepRoute }

// check refuses a step that this package cannot have written. A journal is read with root's rights, so nothing in it
// may name another file, another command or an option.
func (s step) check() error {
	if !ValidName(s.Interface) {
		return fmt.Errorf("interface %q: %w", s.Interface, ErrName)
	}
	switch s.Kind {
	case stepLink, stepAddress, stepRoute, stepRule, stepSuppress, stepNFT, stepIPTables:
		return nil
	case stepSysctl:
		if !regexp.MustCompile(`^net(/[a-zA-Z0-9_]+)+$`).MatchString(s.Key) {
			return fmt.Errorf("sysctl %q is not one of ours", s.Key)
		}
		return nil
	case stepDNS:
		if !slices.Contains([]string{"resolvconf", "resolvectl", "networksetup", "winipcfg"}, s.Method) {
			return fmt.Errorf("DNS method %q is not one of ours", s.Method)
		}
		// The name of an interface, or on macOS that of a network service, such as "USB 10/100/1000 LAN".
		if !regexp.MustCompile(`^[^-\pC][^\pC]*$`).MatchString(s.Key) {
			return fmt.Errorf("DNS record %q is not one of ours", s.Key)
		}
		return nil
	}
	return fmt.Errorf("unknown kind of step %q", s.Kind)
}
