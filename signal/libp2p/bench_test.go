package libp2p_test

import (
	"net/netip"
	"net/url"
	"testing"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/libp2p"
	"github.com/wice-go/wice-go/signal/rendezvous"
	"github.com/wice-go/wice-go/signal/signaltest"
)

// BenchmarkPublish measures an acknowledged envelope of the size of an offer over a connection that stands.
func BenchmarkPublish(b *testing.B) {
	for name, extra := range map[string]url.Values{
		"Direct": {"listen": {"/ip4/127.0.0.1/tcp/0"}},
		"QUIC":   {"listen": {"/ip4/127.0.0.1/udp/0/quic-v1"}},
		"Relay":  {},
	} {
		b.Run(name, func(b *testing.B) {
			s, err := rendezvous.Start(b.Context(), rendezvous.Options{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			q := url.Values{"bootstrap": s.Bootstraps(), "mdns": {"false"}, "listen": extra["listen"]}
			var nodes []signal.Backend
			var keys []key.Public
			for range 2 {
				k := key.NewPrivate()
				n, err := libp2p.New(b.Context(), signal.Env{Identity: k, Sink: signaltest.NewRecorder(), ExcludeAddr: loopbackOnly}, []url.Values{q})
				if err != nil {
					b.Fatal(err)
				}
				defer n.Close()
				nodes, keys = append(nodes, n), append(keys, k.Public())
			}
			for _, n := range nodes {
				n.SetPeers(keys)
			}
			offer := make([]byte, 600)
			for nodes[0].Publish(b.Context(), keys[1], offer) != nil {
				// until both are connected
			}
			for b.Loop() {
				if err := nodes[0].Publish(b.Context(), keys[1], offer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
