package e2e

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/wice-go/wice-go/test/natlab"
)

var inode = regexp.MustCompile(`:\[\d+\]$`)

// descriptors counts what the node's daemon has open, by what it is.
func (n *node) descriptors() map[string]int {
	n.w.t.Helper()
	pids := n.daemons()
	if len(pids) != 1 {
		n.w.t.Fatalf("%s has daemons %v, want one", n.name, pids)
	}
	dir := fmt.Sprintf("/proc/%d/fd", pids[0])
	entries, err := os.ReadDir(dir)
	if err != nil {
		n.w.t.Fatal(err)
	}
	found := make(map[string]int)
	for _, e := range entries {
		if target, err := os.Readlink(dir + "/" + e.Name()); err == nil { // else it is closed already
			found[inode.ReplaceAllString(target, "")]++
		}
	}
	return found
}

// A peer that wg adds at run time to both sides, by its key alone, is found through signaling. When wg has removed it nothing is left of it.
func TestPeerAtRunTime(t *testing.T) {
	w, na, nb := newPair(t, natlab.PortRestricted)
	ends := [][2]*node{{na, nb}, {nb, na}}
	for _, p := range ends {
		p[0].peers = nil
		p[0].up()
	}
	before := make(map[*node]map[string]int)
	for _, p := range ends {
		w.until(patience, p[0].name+" has signaling", func() (bool, string) {
			s := p[0].status()
			return s.Signaling[0].Connected, fmt.Sprint(s.Signaling)
		})
		w.until(patience, p[0].name+" has opened all that it needs", func() (bool, string) {
			last := before[p[0]]
			before[p[0]] = p[0].descriptors()
			return maps.Equal(last, before[p[0]]), fmt.Sprint(last, before[p[0]])
		})
	}
	for round := range 3 {
		for _, p := range ends {
			p[0].ok("wg", "set", iface, "peer", p[1].key.Public().String(), "allowed-ips", p[1].addr.String()+"/32")
		}
		t.Logf("round %d: first answer after %v", round, na.firstPing(nb.addr).Round(ms))
		nb.firstPing(na.addr)
		na.peerUntil(nb, "directly", func(p peerStatus) bool { return p.State == "connected" && p.Path != nil && p.Path.Kind == "direct" })
		for _, p := range ends {
			p[0].ok("wg", "set", iface, "peer", p[1].key.Public().String(), "remove")
		}
		for _, p := range ends {
			if r := p[0].ok("wg", "show", iface); strings.Contains(r.stdout, p[1].key.Public().String()) {
				t.Errorf("%s: wg shows the peer still: %v", p[0].name, r)
			}
			if s := p[0].status(); len(s.Peers) != 0 {
				t.Errorf("%s: the status has peers still: %+v", p[0].name, s.Peers)
			}
			w.until(patience, p[0].name+" has closed what the peer needed", func() (bool, string) {
				d := cmp.Diff(before[p[0]], p[0].descriptors())
				return d == "", fmt.Sprintf("(-before +after)\n%s", d)
			})
		}
	}
}
