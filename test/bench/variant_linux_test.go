package bench

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// variant is a kind of tunnel, perhaps made by another build of wice-go.
type variant struct {
	kind  kind
	build build // the zero value means that of this checkout
}

// kind is what carries the packets.
type kind struct {
	name  string
	relay string // the client's transport to coturn: "udp" or "tcp"; "" means a direct path
	own   bool   // the relay is a wice-go rendezvous, not coturn
	wice  bool   // at one end at least
	stack bool   // the first end is a process without an interface: programs there reach the tunnel by its forwards, or
	socks bool   // by its SOCKS5 proxy, or
	exec  bool   // run inside it
	user  bool   // the first end is an ordinary user's
	start func(p *pair)
}

// kinds are all there are, in the order of the tables.
var kinds = []kind{
	{name: "plain", start: startPlain},
	{name: "direct", wice: true, start: startWice},
	{name: "mixed", wice: true, start: startMixed},
	{name: "netstack", wice: true, stack: true, start: startWice},
	{name: "socks5", wice: true, stack: true, socks: true, start: startWice},
	{name: "socks5-mixed", wice: true, stack: true, socks: true, start: startMixed},
	{name: "exec", wice: true, stack: true, exec: true, start: startWice},
	{name: "exec-user", wice: true, stack: true, exec: true, user: true, start: startWice},
	{name: "relay-udp", relay: "udp", wice: true, start: startWice},
	{name: "relay-tcp", relay: "tcp", wice: true, start: startWice},
	{name: "relay-own", relay: "udp", own: true, wice: true, start: startWice},
	{name: "naive-relay", relay: "udp", start: startNaive},
	{name: "raw-relay", relay: "udp", start: startRaw},
}

// String returns KIND or KIND/BUILD.
func (v variant) String() string {
	if v.build.name == "" {
		return v.kind.name
	}
	return v.kind.name + "/" + v.build.name
}

// variants returns those that were chosen by name; of "" all, with the other builds on direct paths alone.
func variants(chosen string, builds []build) ([]variant, error) {
	var all, usual []variant
	for _, k := range kinds {
		for _, b := range append([]build{{}}, builds...) {
			v := variant{k, b}
			if b.name != "" && !k.wice {
				continue
			}
			all = append(all, v)
			if b.name == "" || k.name == "direct" {
				usual = append(usual, v)
			}
		}
	}
	if chosen == "" {
		return usual, nil
	}
	return choose("variant", chosen, all, variant.String)
}

// choose picks things by their names, in the order of the names.
func choose[T any](what, chosen string, all []T, name func(T) string) ([]T, error) {
	var picked []T
	for word := range strings.SplitSeq(chosen, ",") {
		i := slices.IndexFunc(all, func(t T) bool { return name(t) == word })
		if i < 0 {
			var names []string
			for _, t := range all {
				names = append(names, name(t))
			}
			return nil, fmt.Errorf("there is no %s %q; there are %s", what, word, strings.Join(names, ","))
		}
		picked = append(picked, all[i])
	}
	return picked, nil
}

// comparisons are those of each variant with the reference, and others that tell something: relays with the baseline and the upper bound of
// what relays can do, and builds with one another.
func comparisons(all []variant, reference string) (withReference, others []comparison) {
	has := func(name string) bool {
		return slices.ContainsFunc(all, func(v variant) bool { return v.String() == name })
	}
	for _, v := range all {
		if v.String() != reference && has(reference) {
			withReference = append(withReference, comparison{v.String(), reference})
		}
	}
	add := func(v variant, r string) {
		c := comparison{v.String(), r}
		if v.String() != r && r != reference && has(r) && !slices.Contains(others, c) {
			others = append(others, c)
		}
	}
	for _, v := range all {
		if v.kind.relay != "" && v.kind.wice {
			add(v, "naive-relay")
		}
	}
	for _, v := range all {
		if v.kind.relay != "" {
			add(v, "raw-relay")
		}
	}
	for i, v := range all {
		for _, r := range all[i+1:] {
			if v.kind.name == r.kind.name {
				add(v, r.String())
			}
		}
	}
	return withReference, others
}

func TestVariants(t *testing.T) {
	builds := []build{{"new", "/new"}, {"old", "/old"}}
	names := func(all []variant) string {
		var names []string
		for _, v := range all {
			names = append(names, v.String())
		}
		return strings.Join(names, ",")
	}
	all, err := variants("", builds)
	if want := "plain,direct,direct/new,direct/old,mixed"; err != nil || !strings.HasPrefix(names(all), want) {
		t.Errorf("got %s, %v, want %s...", names(all), err, want)
	}
	const some = "relay-udp/old,plain,relay-udp/new"
	all, err = variants(some, builds)
	if err != nil || names(all) != some {
		t.Errorf("got %s, %v, want %s", names(all), err, some)
	}
	with, others := comparisons(all, "plain")
	if want := []comparison{{"relay-udp/old", "plain"}, {"relay-udp/new", "plain"}}; !slices.Equal(with, want) {
		t.Errorf("got %v, want %v", with, want)
	}
	if want := []comparison{{"relay-udp/old", "relay-udp/new"}}; !slices.Equal(others, want) {
		t.Errorf("got %v, want %v", others, want)
	}
	all, err = variants("relay-udp,naive-relay,raw-relay", nil)
	if err != nil {
		t.Fatal(err)
	}
	with, others = comparisons(all, "plain")
	if want := []comparison{{"relay-udp", "naive-relay"}, {"relay-udp", "raw-relay"}, {"naive-relay", "raw-relay"}}; with != nil || !slices.Equal(others, want) {
		t.Errorf("got %v and %v, want none and %v", with, others, want)
	}
	for _, bad := range []string{"plain/new", "direct/newer", "kernel"} {
		if _, err := variants(bad, builds); err == nil || !strings.Contains(err.Error(), "relay-tcp/old") {
			t.Errorf("%s: got %v, want an error that says what there is", bad, err)
		}
	}
}

func TestParseBinaries(t *testing.T) {
	if got, err := parseBinaries("new=/bin/sh,old=/bin/true"); err != nil || !slices.Equal(got, []build{{"new", "/bin/sh"}, {"old", "/bin/true"}}) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"/bin/sh", "new=sh", "=/bin/sh", "a/b=/bin/sh", "new=/bin", "new=/etc/passwd", "new=/bin/no such program"} {
		if got, err := parseBinaries(bad); err == nil {
			t.Errorf("%q: got %v and no error", bad, got)
		}
	}
}
