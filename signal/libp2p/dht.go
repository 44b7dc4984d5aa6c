package libp2p

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/wice-go/wice-go/signal/libp2p/node"
)

const (
	// findTimeout bounds a query. A single server answers in one round trip.
	findTimeout = 3 * time.Second

	// emptyRetry and emptyRetries: just after the start the routing table is empty until the first bootstrap has been identified.
	emptyRetry   = 25 * time.Millisecond
	emptyRetries = 4
)

// finder asks the DHT where a peer is. It is a client: it stores nothing for others and answers nobody.
type finder struct {
	dht   *dht.IpfsDHT
	gater *gater
	wg    sync.WaitGroup // queries that run out after their answer was taken
}

func newFinder(h *node.Host, g *gater, bootstraps []peer.AddrInfo) (*finder, error) {
	d, err := dht.New(h,
		dht.Mode(dht.ModeClient),
		dht.ProtocolPrefix(node.DHTPrefix),
		dht.DisableProviders(), dht.DisableValues(),
		dht.DisableAutoRefresh(), // the table is filled by connections that are needed anyway: no idle traffic
		dht.QueryFilter(func(_ any, p peer.AddrInfo) bool {
			return len(g.filter(p.Addrs)) > 0 && g.allowServer(p.ID)
		}),
		dht.AddressFilter(g.filter),
	)
	if err != nil {
		return nil, fmt.Errorf("DHT: %w", err)
	}
	return &finder{dht: d, gater: g}, nil
}

// find returns addresses of the peer, and stops at the first answer that has any: running the query to its end takes seconds when
// the peer is behind a relay.
func (f *finder) find(ctx context.Context, id peer.ID) []ma.Multiaddr {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	for range emptyRetries {
		if f.dht.RoutingTable().Size() > 0 {
			break
		}
		select {
		case <-time.After(emptyRetry):
		case <-ctx.Done():
			return nil
		}
	}
	ctx, events := routing.RegisterForQueryEvents(ctx)
	f.wg.Go(func() {
		defer cancel()
		f.dht.FindPeer(ctx, id)
	})
	var found []ma.Multiaddr
	for e := range events {
		if e.Type != routing.PeerResponse || found != nil {
			continue
		}
		i := slices.IndexFunc(e.Responses, func(p *peer.AddrInfo) bool { return p.ID == id })
		if i < 0 {
			continue
		}
		if addrs := f.gater.filter(e.Responses[i].Addrs); len(addrs) > 0 {
			found = addrs
			cancel()
		}
	}
	return found
}
