package rendezvous

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestPlan(t *testing.T) {
	for _, test := range []struct {
		name             string
		listen, announce []netip.Addr
		endpoints        []string // listen>announce
		announced        []netip.Addr
		wantErr          string
	}{
		{"one", addrs("10.0.0.5"), nil, []string{"10.0.0.5>10.0.0.5"}, addrs("10.0.0.5"), ""},
		{"one to one", addrs("10.0.0.5", "10.0.0.6"), addrs("5.1.0.1", "5.1.0.2"),
			[]string{"10.0.0.5>5.1.0.1", "10.0.0.6>5.1.0.2"}, addrs("5.1.0.1", "5.1.0.2"), ""},
		{"everywhere behind NAT", addrs("0.0.0.0"), addrs("5.1.0.1"), []string{"0.0.0.0>5.1.0.1"}, addrs("5.1.0.1"), ""},
		{"by family", addrs("10.0.0.5", "fd00::5"), addrs("2a0e::1"), []string{"10.0.0.5>none", "fd00::5>2a0e::1"}, addrs("2a0e::1"), ""},
		{"mapped", addrs("::ffff:10.0.0.5", "10.0.0.5"), nil, []string{"10.0.0.5>10.0.0.5"}, addrs("10.0.0.5"), ""},
		{"unspecified", addrs("10.0.0.5"), addrs("0.0.0.0"), nil, nil, "can't be announced"},
		{"multicast", addrs("10.0.0.5"), addrs("224.0.0.1"), nil, nil, "can't be announced"},
	} {
		t.Run(test.name, func(t *testing.T) {
			endpoints, announced, err := plan(test.listen, test.announce)
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Errorf("got %v, want %q in it", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range endpoints {
				announce := "none"
				if e.announce.IsValid() {
					announce = e.announce.String()
				}
				got = append(got, e.listen.String()+">"+announce)
			}
			if d := cmp.Diff(test.endpoints, got); d != "" {
				t.Error(d)
			}
			if !slices.Equal(announced, test.announced) {
				t.Errorf("got %v, want %v", announced, test.announced)
			}
		})
	}
}

func TestPlanEverywhere(t *testing.T) {
	endpoints, announced, err := plan(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range endpoints {
		if e.listen.IsUnspecified() || e.listen != e.announce {
			t.Errorf("got %v, want a socket for each address, so that answers come from where was asked", e)
		}
	}
	if len(endpoints) != len(announced) {
		t.Errorf("got %d sockets for %d addresses", len(endpoints), len(announced))
	}
	loops := slices.ContainsFunc(announced, netip.Addr.IsLoopback)
	others := slices.ContainsFunc(announced, func(a netip.Addr) bool { return !a.IsLoopback() })
	if loops && others {
		t.Errorf("got %v, want loopback only if there is nothing else", announced)
	}
}

func TestLines(t *testing.T) {
	s := start(t, func(o *Options) { o.Announce = addrs("5.1.0.1", "2a0e::1") })
	lines := s.Lines()
	if len(lines) != 2 {
		t.Fatalf("got %q", lines)
	}
	for i, want := range []string{"#!wice Signaling = libp2p:?bootstrap=/ip4/5.1.0.1/tcp/", "#!wice Signaling = libp2p:?bootstrap=/ip6/2a0e::1/tcp/"} {
		if !strings.HasPrefix(lines[i], want) || !strings.HasSuffix(lines[i], "/p2p/"+s.host.ID().String()) {
			t.Errorf("got %q, want %q...", lines[i], want)
		}
	}
}

func TestUseful(t *testing.T) {
	announced := addrs("5.1.0.1", "5.1.0.2", "2a0e::1", "2a0e::2")
	for _, test := range []struct {
		local string
		want  []netip.Addr
	}{
		{"5.1.0.2", addrs("5.1.0.2", "2a0e::1")},
		{"2a0e::2", addrs("2a0e::2", "5.1.0.1")},
		{"10.0.0.1", announced},
	} {
		if got := useful(announced, netip.MustParseAddr(test.local)); !slices.Equal(got, test.want) {
			t.Errorf("to %s: got %v, want %v", test.local, got, test.want)
		}
	}
	if got := useful(announced[:2], announced[1]); !slices.Equal(got, announced[1:2]) {
		t.Errorf("got %v, want %v", got, announced[1:2])
	}
	if got := useful(announced, netip.Addr{}); !slices.Equal(got, announced) {
		t.Errorf("of an unknown one: got %v, want all", got)
	}
}
