package tun

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func prefixes(ss ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func TestParseTable(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Table
		ok   bool
	}{
		{"", TableAuto, true}, {"auto", TableAuto, true}, {"OFF", TableOff, true}, {"main", 254, true}, {"local", 255, true},
		{"default", 253, true}, {"1234", 1234, true}, {"0x10", 16, true}, {"2147483647", maxTable, true},
		{"0", 0, false}, {"2147483648", 0, false}, {"-1", 0, false}, {"no-such-table", 0, false},
	} {
		got, err := ParseTable(c.in)
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("ParseTable(%q): got %v, %v, want %v", c.in, got, err, c.want)
		}
		if err != nil {
			continue
		}
		if again, err := ParseTable(got.String()); again != got || err != nil {
			t.Errorf("ParseTable(%q.String()): got %v, %v", c.in, again, err)
		}
	}
}

func FuzzTableNames(f *testing.F) {
	f.Add("# reserved values\n255 local\n0x64\tvpn # ours\n0 unspec\n", "vpn")
	f.Fuzz(func(t *testing.T, text, name string) {
		n, ok := findTable(strings.NewReader(text), name)
		if ok && (n == 0 || n > maxTable || !strings.Contains(text, name)) {
			t.Errorf("found %q as %d", name, n)
		}
	})
}

func TestFindTable(t *testing.T) {
	text := "# 5 no\n0x64\tvpn # ours\n0 zero\nx bad\n7\n"
	if n, ok := findTable(strings.NewReader(text), "vpn"); n != 100 || !ok {
		t.Errorf("vpn: got %d, %v, want 100", n, ok)
	}
	for _, name := range []string{"no", "zero", "bad", ""} {
		if n, ok := findTable(strings.NewReader(text), name); ok {
			t.Errorf("%q: got %d, want none", name, n)
		}
	}
}

func TestCheckConfig(t *testing.T) {
	addr := netip.MustParseAddr
	good := Config{
		Addresses: prefixes("10.0.0.1/24", "10.0.0.1/24", "fe80::1/64"), MTU: 1280,
		DNS: []netip.Addr{addr("10.0.0.53")}, SearchDomains: []string{"example.org", "~corp", "_a.b"},
		Routes: prefixes("10.1.2.3/16", "0.0.0.0/0", "10.1.0.0/16", "::/0", "10.1.2.3/32"),
	}
	got, err := good.check("wg0")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(prefixes("10.1.2.3/32", "10.1.0.0/16", "0.0.0.0/0", "::/0"), got.Routes, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("routes: %s", diff)
	}
	if len(got.Addresses) != 2 {
		t.Errorf("addresses: got %v, want each once", got.Addresses)
	}
	for name, c := range map[string]Config{
		"MTU":          {MTU: 67},
		"large MTU":    {MTU: 65536},
		"no address":   {Addresses: []netip.Prefix{{}}},
		"mapped":       {Addresses: []netip.Prefix{netip.PrefixFrom(addr("::ffff:10.0.0.1"), 120)}},
		"unspecified":  {Addresses: prefixes("0.0.0.0/0")},
		"multicast":    {Addresses: prefixes("224.0.0.1/32")},
		"no DNS":       {DNS: []netip.Addr{{}}},
		"newline":      {SearchDomains: []string{"a\nnameserver 1.2.3.4"}},
		"option":       {SearchDomains: []string{"-x"}},
		"empty domain": {SearchDomains: []string{""}},
		"no route":     {Routes: []netip.Prefix{{}}},
	} {
		if _, err := c.check("wg0"); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestValidName(t *testing.T) {
	for s, want := range map[string]bool{
		"wg0": true, "a=b+c.d-e_F9": true, "fifteen-letters": true, "sixteen-letters-": false, "": false, ".": false, "..": false,
		"a b": false, "a/b": false, "é": false, "a\x00": false, "x\n": false, "a;b": false,
	} {
		if got := ValidName(s); got != want {
			t.Errorf("ValidName(%q): got %v, want %v", s, got, want)
		}
	}
}

func TestCover(t *testing.T) {
	have := cover{}
	for _, p := range prefixes("10.0.0.0/8", "2001:db8::/32") {
		have[p] = true
	}
	for s, want := range map[string]bool{
		"10.0.0.0/8": true, "10.1.2.3/32": true, "0.0.0.0/0": false, "11.0.0.0/8": false, "2001:db8:1::/48": true, "2001::/16": false,
	} {
		if got := have.contains(netip.MustParsePrefix(s)); got != want {
			t.Errorf("%s: got %v, want %v", s, got, want)
		}
	}
}
