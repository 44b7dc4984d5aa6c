package tun

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// addressArgs names an IPv4 address twice, since utun interfaces are point to point.
func addressArgs(name string, p netip.Prefix) []string {
	if p.Addr().Is6() {
		return []string{name, "inet6", p.String(), "alias"}
	}
	return []string{name, "inet", p.String(), p.Addr().String(), "alias"}
}

func tableArgs(t Table) ([]string, error) {
	if t == TableAuto {
		return nil, nil
	}
	return nil, fmt.Errorf("Table = %s: %w", t, ErrUnsupported)
}

// removeLink has nothing to do: a utun interface ends with its process.
func removeLink(string) error { return nil }

// setDNS gives the resolvers of the configuration to every network service, as wg-quick does: macOS has no resolvers of
// an interface that is not a service's. The old ones are written down.
func (d *Configured) setDNS(index int) error {
	if len(d.config.DNS) == 0 {
		return nil
	}
	if err := d.setServices(index); err != nil {
		d.warn(fmt.Errorf("DNS is not set everywhere, names may be resolved as before: %w", err))
	}
	return nil
}

func (d *Configured) setServices(index int) error {
	tool, err := lookTool("networksetup")
	if err != nil {
		return err
	}
	list, err := runTool("", tool, "-listallnetworkservices")
	if err != nil {
		return err
	}
	var servers []string
	for _, a := range d.config.DNS {
		servers = append(servers, a.String())
	}
	for i, service := range strings.Split(strings.TrimSpace(list), "\n") {
		if i == 0 || strings.HasPrefix(service, "*") {
			continue // a line of explanation, and services that are off
		}
		for _, what := range []struct {
			kind string // of networksetup's verbs -get... and -set...
			want []string
			is   func(string) bool
		}{{"dnsservers", servers, isAddress}, {"searchdomains", d.config.SearchDomains, validDomain}} {
			if len(what.want) == 0 {
				continue
			}
			t := step{Kind: stepDNS, Interface: d.name, Index: index, Method: "networksetup", Key: service, New: what.kind}
			if _, done := d.journal.find(func(s step) bool { return s.Key == t.Key && s.New == t.New }); !done {
				old, err := runTool("", tool, "-get"+what.kind, service)
				if err != nil {
					return err
				}
				// Without any, it says so in a sentence.
				for _, line := range strings.Split(strings.TrimSpace(old), "\n") {
					if what.is(line) {
						t.Old += line + " "
					}
				}
				if err := d.journal.begin(t); err != nil {
					return err
				}
			}
			if _, err := runTool("", tool, append([]string{"-set" + what.kind, service}, what.want...)...); err != nil {
				return err
			}
		}
	}
	return nil
}

func isAddress(s string) bool { return net.ParseIP(s) != nil }

// undoDNS gives a service its old servers or domains back; "Empty" means none, and so those of DHCP.
func undoDNS(t step) error {
	old := strings.Fields(t.Old)
	for _, s := range old {
		if !isAddress(s) && !validDomain(s) {
			return fmt.Errorf("DNS of %s: %q is neither address nor domain", t.Key, s)
		}
	}
	if len(old) == 0 {
		old = []string{"Empty"}
	}
	if t.New != "dnsservers" && t.New != "searchdomains" {
		return fmt.Errorf("DNS of %s: unknown setting %q", t.Key, t.New)
	}
	return run("networksetup", append([]string{"-set" + t.New, t.Key}, old...)...)
}
