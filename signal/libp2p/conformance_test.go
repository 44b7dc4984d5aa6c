package libp2p_test

import (
	"net/netip"
	"net/url"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/libp2p"
	"github.com/wice-go/wice-go/signal/rendezvous"
	"github.com/wice-go/wice-go/signal/signaltest"
)

func TestMain(m *testing.M) {
	if args := os.Getenv(helperEnv); args != "" {
		os.Exit(helper(args))
	}
	goleak.VerifyTestMain(m, ignored)
}

// ignored is started for good by a package that kad-dht imports.
var ignored = goleak.IgnoreTopFunction("github.com/ipfs/go-log/v2/writer.(*MirrorWriter).logRoutine")

// startRendezvous runs a server on loopback with ports chosen by the system.
func startRendezvous(t *testing.T) *rendezvous.Server {
	t.Helper()
	s, err := rendezvous.Start(t.Context(), rendezvous.Options{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// loopbackOnly keeps the tests from depending on the machine's addresses: as loopback is not announced either, peers have no address
// at all, and only circuits are left.
func loopbackOnly(a netip.Addr) bool { return !a.IsLoopback() }

func TestConformance(t *testing.T) {
	for _, test := range []struct {
		name  string
		extra url.Values
	}{
		{"Circuit", url.Values{"mdns": {"false"}, "dht": {"false"}}},
		{"DHT", url.Values{"mdns": {"false"}, "listen": {"/ip4/127.0.0.1/tcp/0"}}},
		{"MDNS", url.Values{"listen": {"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"}}},
		{"QUIC", url.Values{"mdns": {"false"}, "listen": {"/ip4/127.0.0.1/udp/0/quic-v1"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			signaltest.Run(t, func(t *testing.T) signaltest.Harness {
				t.Helper()
				q := url.Values{}
				if test.name != "MDNS" {
					q["bootstrap"] = startRendezvous(t).Bootstraps()
				}
				for name, values := range test.extra {
					q[name] = values
				}
				return signaltest.Harness{
					New: func(t *testing.T, env signal.Env) signal.Backend {
						t.Helper()
						env.ExcludeAddr = loopbackOnly
						b, err := libp2p.New(t.Context(), env, []url.Values{q})
						if err != nil {
							t.Fatal(err)
						}
						return b
					},
					// The server's own, which may start after the suite has looked.
					Ignore: []goleak.Option{ignored, goleak.IgnoreAnyFunction("github.com/libp2p/go-libp2p/p2p/protocol/identify.(*idService).loop.func1")},
				}
			})
		})
	}
}
