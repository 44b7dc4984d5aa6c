package tun

import (
	"strings"
	"testing"
)

func TestIPTablesDelete(t *testing.T) {
	saved := "# Generated\n*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j ACCEPT\n" +
		"-A PREROUTING ! -i wg0 -d 10.0.0.1/32 " + iptablesComment("wg0") + " -j DROP\n" +
		"-A PREROUTING ! -i wg01 -d 10.0.1.1/32 " + iptablesComment("wg01") + " -j DROP\nCOMMIT\n"
	want := "*raw\n-D PREROUTING ! -i wg0 -d 10.0.0.1/32 " + iptablesComment("wg0") + " -j DROP\nCOMMIT\n"
	if got := iptablesDelete("wg0", saved); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := iptablesDelete("wg", saved); got != "" {
		t.Errorf("without rules: got %q", got)
	}
}

func FuzzIPTablesDelete(f *testing.F) {
	f.Add("*raw\n-A PREROUTING " + iptablesComment("wg0") + "\nCOMMIT\n")
	f.Fuzz(func(t *testing.T, saved string) {
		for line := range strings.Lines(iptablesDelete("wg0", saved)) {
			if line != "COMMIT\n" && line[0] != '*' && !(strings.HasPrefix(line, "-D ") && strings.Contains(line, iptablesComment("wg0"))) {
				t.Errorf("a script with %q", line)
			}
		}
	})
}

func TestFirstPattern(t *testing.T) {
	if got := firstPattern(strings.NewReader("# comment*\nlo.inet*\nlo\n tun* \nppp*\n")); got != "tun." {
		t.Errorf("got %q, want tun.", got)
	}
}
