package libp2p

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// maxGreeted bounds how many peers are greeted at once. In larger networks the rest is met through offers: when a rendezvous
	// restarts, all its clients greet at the same time.
	maxGreeted = 256

	// greeters is how many are greeted at the same time; with a round trip of 50 ms that is some 80 peers a second.
	greeters = 4

	greetTimeout = 3 * time.Second

	// greetPause comes after each round: peers that are configured one by one must not mean a round each.
	greetPause = time.Second
)

// greet connects to the configured peers that are not connected whenever a bootstrap is connected (again) or peers were added. Thereby
// peers that wait for this one learn that it is there, and need not try again blindly. A peer that is not there costs one refusal by the
// bootstrap.
func (b *Backend) greet() {
	for {
		select {
		case <-b.hello:
		case <-b.ctx.Done():
			return
		}
		var absent []peer.ID
		for _, id := range b.gater.all() {
			if len(absent) < maxGreeted && b.newest(id) == nil {
				absent = append(absent, id)
			}
		}
		queue := make(chan peer.ID)
		var wg sync.WaitGroup
		for range min(greeters, len(absent)) {
			wg.Go(func() {
				for id := range queue {
					b.greetOne(id)
				}
			})
		}
		for _, id := range absent {
			queue <- id
		}
		close(queue)
		wg.Wait()
		if len(absent) > 0 && b.anyRelay() {
			b.pause(greetPause)
		}
	}
}

func (b *Backend) anyRelay() bool {
	return slices.ContainsFunc(b.relays, func(r *relay) bool { connected, _ := r.status(); return connected })
}

func (b *Backend) greetOne(id peer.ID) {
	if b.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(b.ctx, "presence"), greetTimeout)
	defer cancel()
	b.addCircuits(id)
	if len(b.host.Peerstore().Addrs(id)) == 0 {
		return
	}
	b.host.ForgetFailures(id)
	if _, err := b.host.Network().DialPeer(ctx, id); err != nil {
		b.log.Debug("peer not there yet", "peer", id, "error", b.explain(err))
	}
}
