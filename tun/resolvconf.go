//go:build linux || freebsd

package tun

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// setResolvconf hands the resolvers to resolvconf, as the only ones to be used (-x).
func (d *Configured) setResolvconf(tool, key string) error {
	var b strings.Builder
	for _, a := range d.config.DNS {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	if len(d.config.SearchDomains) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.config.SearchDomains, " "))
	}
	_, err := runTool(b.String(), tool, "-a", key, "-m", "0", "-x")
	return err
}

func undoResolvconf(t step) error {
	tool, err := lookTool("resolvconf")
	if err != nil {
		return err
	}
	_, err = runTool("", tool, "-d", t.Key, "-f")
	return err
}

// resolvconfPrefix is what Debian's resolvconf wants before the name of an interface to give it precedence.
func resolvconfPrefix() string {
	f, err := os.Open("/etc/resolvconf/interface-order")
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }() // only read
	return firstPattern(f)
}

// firstPattern returns the first line of the form "name*" as "name.".
func firstPattern(r io.Reader) string {
	pattern := regexp.MustCompile(`^\s*([A-Za-z0-9-]+)\*\s*$`)
	for lines := bufio.NewScanner(r); lines.Scan(); {
		if m := pattern.FindStringSubmatch(lines.Text()); m != nil {
			return m[1] + "."
		}
	}
	return ""
}
