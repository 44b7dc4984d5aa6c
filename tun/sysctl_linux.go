package tun

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
)

const srcValidMark = "net/ipv4/conf/all/src_valid_mark"

// setSrcValidMark makes the kernel heed the mark when it checks the source of an incoming packet by the way back to
// it (rp_filter). Without it strict checks drop what peers send, since the way back leads into the tunnel.
//
// Containers often show sysctls read only. Then this is a warning, since most systems do not check strictly.
func (d *Configured) setSrcValidMark(p netip.Prefix) error {
	old, err := readSysctl(srcValidMark)
	if err == nil && old == "1" {
		return nil
	}
	if err == nil {
		t := step{Kind: stepSysctl, Interface: d.name, For: p, Mark: d.mark, Key: srcValidMark, Old: old, New: "1"}
		if err := d.journal.begin(t); err != nil {
			return err
		}
		if err = writeSysctl(srcValidMark, "1"); err == nil {
			return nil
		}
		if ferr := d.journal.forget(t); ferr != nil {
			return ferr
		}
	}
	d.warn(fmt.Errorf("sysctl net.ipv4.conf.all.src_valid_mark=1: %w (peers are unreachable if rp_filter is 1)", err))
	return nil
}

func readSysctl(key string) (string, error) {
	text, err := os.ReadFile("/proc/sys/" + key)
	return strings.TrimSpace(string(text)), err
}

func writeSysctl(key, value string) error {
	return os.WriteFile("/proc/sys/"+key, []byte(value), 0o644)
}
