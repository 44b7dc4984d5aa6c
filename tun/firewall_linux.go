package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// addFirewall keeps others on the local network from sending packets to the tunnel's addresses around the tunnel
// (CVE-2019-14899), and carries the mark over to the answers of peers, so that the check of their source heeds it.
//
// It goes through the nft program, as wg-quick's does, and iptables where there is no nft: a library could talk to
// nf_tables without the program, but not to the iptables of an older kernel. With neither, the tunnel runs without the
// rule, and a warning says so.
func (d *Configured) addFirewall(p netip.Prefix) error {
	ipv6 := p.Addr().Is6()
	var addresses []netip.Addr
	for _, a := range d.config.Addresses {
		if a.Addr().Is6() == ipv6 {
			addresses = append(addresses, a.Addr())
		}
	}
	restore := "iptables-restore"
	if ipv6 {
		restore = "ip6tables-restore"
	}
	var failed []error
	for _, way := range []struct {
		kind   stepKind
		tool   string
		args   []string
		script string
	}{
		{stepNFT, "nft", []string{"-f", "-"}, nftScript(d.name, ipv6, d.mark, addresses)},
		{stepIPTables, restore, []string{"-n"}, iptablesScript(d.name, d.mark, addresses)},
	} {
		tool, err := lookTool(way.tool)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		t := step{Kind: way.kind, Interface: d.name, For: p, IPv6: ipv6}
		if err := d.journal.begin(t); err != nil {
			return err
		}
		if _, err = runTool(way.script, tool, way.args...); err == nil {
			return nil
		}
		failed = append(failed, err)
		if err := d.journal.forget(t); err != nil {
			return err
		}
	}
	d.warn(fmt.Errorf("no firewall rule protects the addresses of the tunnel against spoofing: %w", errors.Join(failed...)))
	return nil
}

// nftTable names the table of an interface. The characters that nft does not take in a name are replaced by a form
// that an interface's name cannot have.
func nftTable(iface string) string {
	return "wice-go-" + strings.NewReplacer("=", "/3d", "+", "/2b").Replace(iface)
}

func nftFamily(ipv6 bool) string {
	if ipv6 {
		return "ip6"
	}
	return "ip"
}

// nftScript makes the table in one transaction, in place of one that may be there from before.
func nftScript(iface string, ipv6 bool, mark uint32, addresses []netip.Addr) string {
	var b strings.Builder
	f, table := nftFamily(ipv6), nftTable(iface)
	b.WriteString(nftDelete(iface, ipv6))
	fmt.Fprintf(&b, "add table %s %s\n", f, table)
	fmt.Fprintf(&b, "add chain %s %s preraw { type filter hook prerouting priority -300; }\n", f, table)
	fmt.Fprintf(&b, "add chain %s %s premangle { type filter hook prerouting priority -150; }\n", f, table)
	fmt.Fprintf(&b, "add chain %s %s postmangle { type filter hook postrouting priority -150; }\n", f, table)
	for _, a := range addresses {
		fmt.Fprintf(&b, "add rule %s %s preraw iifname != %q %s daddr %s fib saddr type != local drop\n", f, table, iface, f, a)
	}
	fmt.Fprintf(&b, "add rule %s %s postmangle meta l4proto udp meta mark %d ct mark set meta mark\n", f, table, mark)
	fmt.Fprintf(&b, "add rule %s %s premangle meta l4proto udp meta mark set ct mark\n", f, table)
	return b.String()
}

// nftDelete removes the table of an interface whether it is there or not.
func nftDelete(iface string, ipv6 bool) string {
	f, table := nftFamily(ipv6), nftTable(iface)
	return fmt.Sprintf("add table %s %s\ndelete table %s %s\n", f, table, f, table)
}

// iptablesComment is what the rules of an interface are found by.
func iptablesComment(iface string) string {
	return fmt.Sprintf("-m comment --comment \"wice-go rule for %s\"", iface)
}

// iptablesScript says the same to iptables-restore.
func iptablesScript(iface string, mark uint32, addresses []netip.Addr) string {
	var b strings.Builder
	comment := iptablesComment(iface)
	b.WriteString("*raw\n")
	for _, a := range addresses {
		fmt.Fprintf(&b, "-I PREROUTING ! -i %s -d %s -m addrtype ! --src-type LOCAL -j DROP %s\n", iface, a, comment)
	}
	fmt.Fprintf(&b, "COMMIT\n*mangle\n-I POSTROUTING -m mark --mark %d -p udp -j CONNMARK --save-mark %s\n", mark, comment)
	fmt.Fprintf(&b, "-I PREROUTING -p udp -j CONNMARK --restore-mark %s\nCOMMIT\n", comment)
	return b.String()
}

// iptablesDelete turns the output of iptables-save into a script that removes the rules of one interface. It returns ""
// if there are none.
func iptablesDelete(iface, saved string) string {
	var b strings.Builder
	found := false
	comment := iptablesComment(iface)
	for line := range strings.Lines(saved) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"), line == "COMMIT":
			b.WriteString(line + "\n")
		case strings.HasPrefix(line, "-A ") && strings.Contains(line+" ", comment+" "):
			found = true
			b.WriteString("-D" + line[2:] + "\n")
		}
	}
	if !found {
		return ""
	}
	return b.String()
}
