package tun

import (
	"errors"
	"fmt"
)

// setDNS makes the resolvers of the configuration the only ones while the interface is up, through resolvconf (that of
// openresolv, of Debian or of systemd) or else resolvectl.
//
// That it cannot is a warning, not an error: where there is no resolver manager, mostly in containers, the tunnel is
// worth having nevertheless, and in a full tunnel the queries to the old resolvers go through the tunnel too.
func (d *Configured) setDNS(index int) error {
	if len(d.config.DNS) == 0 {
		return nil
	}
	var failed []error
	for _, way := range []struct {
		method string
		set    func(tool, key string) error
	}{{"resolvconf", d.setResolvconf}, {"resolvectl", d.setResolved}} {
		tool, err := lookTool(way.method)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		t := step{Kind: stepDNS, Interface: d.name, Index: index, Method: way.method, Key: d.name}
		if way.method == "resolvconf" {
			t.Key = resolvconfPrefix() + d.name
		}
		if _, done := d.journal.find(func(s step) bool { return s == t }); !done {
			if err := d.journal.begin(t); err != nil {
				return err
			}
		}
		if err = way.set(tool, t.Key); err == nil {
			return nil
		}
		failed = append(failed, err)
		// What failed may have done a part. If that cannot be taken back now, it stays written down for later.
		if undoDNS(t, true) == nil {
			if err := d.journal.forget(t); err != nil {
				return err
			}
		}
	}
	d.warn(fmt.Errorf("DNS is not set, names are resolved as before: %w", errors.Join(failed...)))
	return nil
}

// setResolved asks systemd-resolved for the same: the domain "~." sends all names to the resolvers of this interface.
func (d *Configured) setResolved(tool, _ string) error {
	args := []string{"dns", d.name}
	for _, a := range d.config.DNS {
		args = append(args, a.String())
	}
	if _, err := runTool("", tool, args...); err != nil {
		return err
	}
	_, err := runTool("", tool, append([]string{"domain", d.name, "~."}, d.config.SearchDomains...)...)
	return err
}

// undoDNS takes back a DNS step. systemd-resolved forgets an interface by itself when it disappears.
func undoDNS(t step, hasLink bool) error {
	if t.Method != "resolvconf" && !hasLink {
		return nil
	}
	if t.Method == "resolvconf" {
		return undoResolvconf(t)
	}
	tool, err := lookTool(t.Method)
	if err != nil {
		return err
	}
	_, err = runTool("", tool, "revert", t.Key)
	return err
}
