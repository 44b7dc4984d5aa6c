package libp2p

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

const (
	// watchInterval is how soon a change of the machine's addresses is noticed. Reading them costs tens of microseconds.
	watchInterval = 2 * time.Second

	// sweepInterval and idleTimeout close connections that carried no envelope for a while: each one costs keep-alives. A peer
	// that comes back dials.
	sweepInterval = 30 * time.Second
	idleTimeout   = 3 * time.Minute
)

// sweep follows the machine's addresses and closes idle connections, until the backend is closed.
func (b *Backend) sweep() {
	watch := time.NewTicker(watchInterval)
	defer watch.Stop()
	idle := time.NewTicker(sweepInterval)
	defer idle.Stop()
	before := localAddrs()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-watch.C:
			now := localAddrs()
			if !slices.Equal(before, now) {
				before = now
				b.networkChanged(now)
			}
		case <-idle.C:
			b.closeIdle(time.Now())
		}
	}
}

// networkChanged closes connections whose local address is gone: TCP would hold on to them for a minute. Then it has the bootstraps
// checked, and tried again if they are not connected.
func (b *Backend) networkChanged(now []netip.Addr) {
	b.log.Debug("the machine's addresses changed")
	for _, c := range b.host.Network().Conns() {
		local, ok := addrOf(c.LocalMultiaddr())
		if ok && !local.IsUnspecified() && !slices.Contains(now, local.WithZone("")) {
			c.Close()
		}
	}
	for _, r := range b.relays {
		wake(r.check)
	}
}

func (b *Backend) closeIdle(now time.Time) {
	b.gater.forgetServers()
	for _, c := range b.host.Network().Conns() {
		id := c.RemotePeer()
		if b.gater.bootstraps[id] || now.Sub(c.Stat().Opened) < idleTimeout {
			continue
		}
		b.mu.Lock()
		last := b.lastUsed[id]
		b.mu.Unlock()
		if now.Sub(last) >= idleTimeout && !slices.ContainsFunc(c.GetStreams(), ours) {
			c.Close()
		}
	}
}

// ours reports whether a stream has been given a protocol; the others are left over from a failed negotiation.
func ours(s network.Stream) bool { return s.Protocol() != "" }

// localAddrs returns the machine's addresses without zones, sorted.
func localAddrs() []netip.Addr {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var addrs []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, p.Addr().Unmap().WithZone(""))
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}
