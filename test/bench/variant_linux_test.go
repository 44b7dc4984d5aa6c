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
	build binary // the zero value means that of this checkout
}

// kind is what carries the packets.
type kind struct {
	name  string
	relay string // the client's transport to coturn: "udp" or "tcp"; "" means a direct path
	wice  bool   // at one end at least
	start func(p *pair)
}

// kinds are all there are, in the order of the tables.
var kinds = []kind{
	{"plain", "", false, startPlain},
	{"direct", "", true, startWice},
	{"mixed", "", true, startMixed},
	{"relay-udp", "udp", true, startWice},
	{"relay-tcp", "tcp", true, startWice},
}

// String returns KIND or KIND/BUILD.
func (v variant) String() string {
	if v.build.name == "" {
		return v.kind.name
	}
	return v.kind.name + "/" + v.build.name
}

// variants returns those that were chosen by name; of "" all, with the other builds on direct paths alone.
func variants(chosen string, builds []binary) ([]variant, error) {
	var all, usual []variant
	for _, k := range kinds {
		for _, b := range append([]binary{{}}, builds...) {
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

// comparisons of each variant with the reference, of relays with what bounds them, and of the builds with one another.
func comparisons(all []variant, reference string) []comparison {
	has := func(name string) bool {
		return slices.ContainsFunc(all, func(v variant) bool { return v.String() == name })
	}
	var pairs []comparison
	add := func(v, r string) {
		c := comparison{v, r}
		if v != r && has(v) && has(r) && !slices.Contains(pairs, c) {
			pairs = append(pairs, c)
		}
	}
	for _, v := range all {
		add(v.String(), reference)
	}
	for _, v := range all {
		if v.kind.relay != "" && v.kind.wice {
			add(v.String(), "naive-relay")
			add(v.String(), "raw-relay")
		}
	}
	for i, v := range all {
		for _, r := range all[i+1:] {
			if v.kind.name == r.kind.name {
				add(v.String(), r.String())
			}
		}
	}
	return pairs
}

func TestVariants(t *testing.T) {
	builds := []binary{{"new", "/new"}, {"old", "/old"}}
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
	want := []comparison{{"relay-udp/old", "plain"}, {"relay-udp/new", "plain"}, {"relay-udp/old", "relay-udp/new"}}
	if got := comparisons(all, "plain"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, bad := range []string{"plain/new", "direct/newer", "kernel"} {
		if _, err := variants(bad, builds); err == nil || !strings.Contains(err.Error(), "relay-tcp/old") {
			t.Errorf("%s: got %v, want an error that says what there is", bad, err)
		}
	}
}

func TestParseBinaries(t *testing.T) {
	if got, err := parseBinaries("new=/bin/sh,old=/bin/true"); err != nil || !slices.Equal(got, []binary{{"new", "/bin/sh"}, {"old", "/bin/true"}}) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"/bin/sh", "new=sh", "=/bin/sh", "a/b=/bin/sh", "new=/bin", "new=/etc/passwd", "new=/bin/no such program"} {
		if got, err := parseBinaries(bad); err == nil {
			t.Errorf("%q: got %v and no error", bad, got)
		}
	}
}
