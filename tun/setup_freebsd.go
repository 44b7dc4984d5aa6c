package tun

import (
	"fmt"
	"net/netip"
	"strconv"
)

func addressArgs(name string, p netip.Prefix) []string {
	return []string{name, inet(p.Addr().Is6()), p.String(), "alias"}
}

// tableArgs selects a routing table (FIB). FreeBSD's first one has number 0, which Table cannot name; it is the default.
func tableArgs(t Table) ([]string, error) {
	if t == TableAuto {
		return nil, nil
	}
	return []string{"-fib", strconv.FormatUint(uint64(t), 10)}, nil
}

// removeLink removes an interface whose process has died: FreeBSD's outlive it.
func removeLink(name string) error { return run("ifconfig", name, "destroy") }

// setDNS makes the resolvers of the configuration the only ones, through resolvconf, which is part of the system.
func (d *Configured) setDNS(index int) error {
	if len(d.config.DNS) == 0 {
		return nil
	}
	tool, err := lookTool("resolvconf")
	if err == nil {
		t := step{Kind: stepDNS, Interface: d.name, Index: index, Method: "resolvconf", Key: resolvconfPrefix() + d.name}
		if err := d.journal.begin(t); err != nil {
			return err
		}
		err = d.setResolvconf(tool, t.Key)
	}
	if err != nil {
		d.warn(fmt.Errorf("DNS is not set, names are resolved as before: %w", err))
	}
	return nil
}

func undoDNS(t step) error { return undoResolvconf(t) }
