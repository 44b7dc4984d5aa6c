package libp2p

import (
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/net/dns/dnsmessage"
)

func TestAnnouncement(t *testing.T) {
	addrs := []ma.Multiaddr{
		ma.StringCast("/ip4/192.0.2.1/tcp/4001/p2p/" + id1),
		ma.StringCast("/ip6/2001:db8::1/udp/4001/quic-v1/p2p/" + id1),
	}
	b, err := announcement("abc", addrs)
	if err != nil {
		t.Fatal(err)
	}
	asked, infos, err := parseMDNS(b)
	if err != nil || asked || len(infos) != 1 || infos[0].ID.String() != id1 || len(infos[0].Addrs) != 2 {
		t.Errorf("got %v, %v, %v", asked, infos, err)
	}
	many := make([]ma.Multiaddr, 100)
	for i := range many {
		many[i] = addrs[1]
	}
	if b, err = announcement(strings.Repeat("a", 26), many); err != nil || len(b) > 1400 {
		t.Errorf("got %d bytes, %v; want at most 1400, to fit into a packet", len(b), err)
	}
}

func TestQuestion(t *testing.T) {
	b, err := query()
	if err != nil {
		t.Fatal(err)
	}
	if asked, infos, err := parseMDNS(b); err != nil || !asked || infos != nil {
		t.Errorf("got %v, %v, %v", asked, infos, err)
	}
	other := dnsmessage.Message{Questions: []dnsmessage.Question{{
		Name: dnsmessage.MustNewName("_p2p._udp.local."), Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET,
	}}}
	if b, err = other.Pack(); err != nil {
		t.Fatal(err)
	}
	if asked, _, _ := parseMDNS(b); asked {
		t.Error("another service's question is taken for ours")
	}
}

func FuzzParseMDNS(f *testing.F) {
	q, err := query()
	if err != nil {
		f.Fatal(err)
	}
	a, err := announcement("abc", []ma.Multiaddr{ma.StringCast("/ip4/192.0.2.1/tcp/4001/p2p/" + id1)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(q)
	f.Add(a)
	f.Add(a[:len(a)-3])
	f.Fuzz(func(t *testing.T, b []byte) {
		asked, infos, err := parseMDNS(b)
		if err != nil {
			return
		}
		if asked && len(infos) > 0 {
			t.Error("a question has answers")
		}
		total := 0
		for _, i := range infos {
			if i.ID == peer.ID("") {
				t.Error("an announcement without a peer")
			}
			total += len(i.Addrs)
		}
		if total > maxAnnounced {
			t.Errorf("got %d addresses", total)
		}
	})
}
