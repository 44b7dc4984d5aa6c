package libp2p

import (
	"net/url"
	"strings"
	"testing"
)

const (
	id1 = "12D3KooWJWRuCsfLc64vuG6UGbDAWLg3Qdqjy7yHL8vHGACURynn"
	id2 = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
)

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig([]url.Values{
		{"bootstrap": {"/ip4/192.0.2.1/tcp/4001/p2p/" + id2, "/ip6/2001:db8::1/tcp/4001/p2p/" + id2}, "mdns": {"false"}},
		{"bootstrap": {"/dns4/example.org/udp/4001/quic-v1/p2p/" + id1}, "listen": {"/ip4/0.0.0.0/tcp/4002"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.MDNS || !c.DHT || len(c.Listen) != 1 || len(c.Bootstraps) != 2 {
		t.Fatalf("got %+v", c)
	}
	if got := c.Bootstraps[0]; got.ID.String() != id2 || len(got.Addrs) != 2 {
		t.Errorf("got %v first, want the first line's with both addresses", got)
	}
	c, err = ParseConfig(nil)
	if err != nil || !c.MDNS || !c.DHT || len(c.Bootstraps) != 0 {
		t.Errorf("without lines: got %+v, %v", c, err)
	}
}

func TestParseConfigErrors(t *testing.T) {
	for _, test := range []struct {
		query string
		want  []string // parts of the error
	}{
		{"bootsrap=x", []string{"bootsrap", "unknown key"}},
		{"bootstrap=x", []string{"bootstrap=x"}},
		{"bootstrap=/ip4/192.0.2.1/tcp/4001", []string{"identity is missing"}},
		{"bootstrap=/p2p/" + id1, []string{"address is missing"}},
		{"bootstrap=/ip4/192.0.2.1/tcp/1/p2p/" + id1 + "/p2p-circuit/p2p/" + id2, []string{"relay"}},
		{"mdns=perhaps", []string{"mdns=perhaps", "true or false"}},
		{"dht=", []string{"dht=", "true or false"}},
		{"listen=/ip4/0.0.0.0/udp/1", []string{"listen=", "quic-v1"}},
		{"listen=/dns4/localhost/tcp/1", []string{"listen=", "/ip4/"}},
		{"dht=x&mdns=y", []string{"dht=x", "mdns=y"}},
	} {
		q, err := url.ParseQuery(test.query)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParseConfig([]url.Values{q})
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q in it", test.query, err, want)
			}
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add("bootstrap=/ip4/192.0.2.1/tcp/4001/p2p/" + id1 + "&mdns=false")
	f.Add("listen=/ip6/::/udp/0/quic-v1&dht=true")
	f.Add("bootstrap=/p2p-circuit")
	f.Add("listen=/")
	f.Fuzz(func(t *testing.T, s string) {
		q, err := url.ParseQuery(s)
		if err != nil {
			return
		}
		c, err := ParseConfig([]url.Values{q})
		if err != nil {
			return
		}
		for _, b := range c.Bootstraps {
			if b.ID == "" || len(b.Addrs) == 0 {
				t.Errorf("%q: got %v", s, b)
			}
		}
	})
}
