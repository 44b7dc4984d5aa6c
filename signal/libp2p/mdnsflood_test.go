package libp2p

import (
	"fmt"
	"net"
	"runtime"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/libp2p/node"
	"github.com/wice-go/wice-go/signal/signaltest"
)

// Anybody on the network can announce a configured peer at any number of addresses: only a few are remembered and dialled at a time.
func TestAnnouncementFlood(t *testing.T) {
	silent, err := net.Listen("tcp4", "0.0.0.0:0") // never says a word
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	b, err := NewBackend(t.Context(), signal.Env{Identity: key.NewPrivate(), Sink: signaltest.NewRecorder()},
		Config{Listen: []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/0")}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	other := key.NewPrivate().Public()
	id, err := node.PeerID(other)
	if err != nil {
		t.Fatal(err)
	}
	b.SetPeers([]key.Public{other})
	before := runtime.NumGoroutine()
	port := silent.Addr().(*net.TCPAddr).Port
	for i := range 200 {
		b.found(peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{ma.StringCast(fmt.Sprintf("/ip4/127.0.1.%d/tcp/%d", i, port))}})
	}
	// A dial that runs remembers its addresses by itself.
	if n := len(b.host.Peerstore().Addrs(id)); n > 3 {
		t.Errorf("%d addresses are remembered, want little more than those of the last announcement", n)
	}
	if n := runtime.NumGoroutine() - before; n > 50 {
		t.Errorf("%d goroutines", n)
	}
}
