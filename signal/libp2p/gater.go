package libp2p

import (
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/wice-go/wice-go/proto/key"
)

// maxDHTServers bounds how many servers that other servers named may be dialled at all; beyond it new ones are refused until old
// ones are forgotten.
const maxDHTServers = 64

// gater decides who may be talked to. Peers: both directions. Bootstraps: outbound. DHT servers that a query named: outbound.
// Everyone else: no. Addresses: never the interface's own, since that would be signaling through the tunnel that it is to set up.
type gater struct {
	// Constant after construction.
	bootstraps map[peer.ID]bool
	exclude    func(netip.Addr) bool
	loopback   bool // loopback is listened on by name, so it may be announced and dialled

	// closing refuses all addresses. A swarm that is closed under a dial past its choice of addresses finds no transport for them, and
	// go-libp2p (v0.51) dereferences it.
	closing atomic.Bool

	// mu guards all following.
	mu      sync.RWMutex
	peers   map[peer.ID]key.Public
	ids     map[key.Public]peer.ID // the same the other way round
	servers map[peer.ID]bool
}

var _ connmgr.ConnectionGater = (*gater)(nil)

// setPeers replaces the configured peers, and returns those that were not there before and those that are no more.
func (g *gater) setPeers(ids map[key.Public]peer.ID) (gone, added []peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var removed []key.Public
	for k := range g.ids {
		if _, ok := ids[k]; !ok {
			removed = append(removed, k)
		}
	}
	return g.changePeersLocked(ids, removed)
}

// changePeers is setPeers for one who knows what has changed.
func (g *gater) changePeers(ids map[key.Public]peer.ID, removed []key.Public) (gone, added []peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changePeersLocked(ids, removed)
}

func (g *gater) changePeersLocked(ids map[key.Public]peer.ID, removed []key.Public) (gone, added []peer.ID) {
	for _, k := range removed {
		if id, ok := g.ids[k]; ok {
			gone = append(gone, id)
			delete(g.ids, k)
			delete(g.peers, id)
		}
	}
	for k, id := range ids {
		if _, ok := g.ids[k]; !ok {
			added = append(added, id)
			g.ids[k], g.peers[id] = id, k
		}
	}
	return gone, added
}

// id returns the peer ID of a configured peer.
func (g *gater) id(k key.Public) (peer.ID, bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	id, ok := g.ids[k]
	return id, ok
}

// key returns the WireGuard key of a configured peer.
func (g *gater) key(id peer.ID) (key.Public, bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	k, ok := g.peers[id]
	return k, ok
}

// all returns the configured peers.
func (g *gater) all() map[key.Public]peer.ID {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return maps.Clone(g.ids)
}

// allowServer lets a DHT server be dialled that a query is about to ask.
func (g *gater) allowServer(id peer.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.servers[id] || g.bootstraps[id] {
		return true
	}
	if len(g.servers) >= maxDHTServers {
		return false
	}
	g.servers[id] = true
	return true
}

// forgetServers makes room for others; connections that stand are not touched.
func (g *gater) forgetServers() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.servers)
}

func (g *gater) known(id peer.ID, outbound bool) bool {
	if g.bootstraps[id] {
		return outbound
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	_, ok := g.peers[id]
	return ok || outbound && g.servers[id]
}

// InterceptPeerDial implements [connmgr.ConnectionGater].
func (g *gater) InterceptPeerDial(id peer.ID) bool { return g.known(id, true) }

// InterceptAddrDial implements [connmgr.ConnectionGater].
func (g *gater) InterceptAddrDial(id peer.ID, a ma.Multiaddr) bool {
	if g.closing.Load() {
		return false
	}
	if relay, ok := circuitRelay(a); ok {
		return g.bootstraps[relay] // and its address was checked when it was parsed from the configuration
	}
	return g.bootstraps[id] && !g.excluded(a) || g.usable(a)
}

// InterceptAccept implements [connmgr.ConnectionGater].
func (g *gater) InterceptAccept(c network.ConnMultiaddrs) bool {
	if relay, ok := circuitRelay(c.RemoteMultiaddr()); ok {
		return g.bootstraps[relay]
	}
	return !g.excluded(c.RemoteMultiaddr()) && !g.excluded(c.LocalMultiaddr())
}

// InterceptSecured implements [connmgr.ConnectionGater].
func (g *gater) InterceptSecured(d network.Direction, id peer.ID, _ network.ConnMultiaddrs) bool {
	return g.known(id, d == network.DirOutbound)
}

// InterceptUpgraded implements [connmgr.ConnectionGater].
func (g *gater) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// usable reports whether an address may be announced to others, or dialled because others announced it.
func (g *gater) usable(a ma.Multiaddr) bool {
	ip, ok := addrOf(a)
	if !ok {
		_, circuit := circuitRelay(a)
		return circuit
	}
	switch {
	case ip.IsUnspecified(), ip.IsMulticast(), ip.IsLoopback() && !g.loopback:
		return false
	case ip.IsLinkLocalUnicast() && ip.Is6() && ip.Zone() == "":
		return false // can't be dialled without a zone, which means nothing elsewhere
	}
	return !g.excluded(a)
}

func (g *gater) excluded(a ma.Multiaddr) bool {
	ip, ok := addrOf(a)
	return ok && g.exclude != nil && g.exclude(ip)
}

func (g *gater) filter(addrs []ma.Multiaddr) []ma.Multiaddr {
	kept := make([]ma.Multiaddr, 0, len(addrs))
	for _, a := range addrs {
		if g.usable(a) {
			kept = append(kept, a)
		}
	}
	return kept
}

func addrOf(a ma.Multiaddr) (netip.Addr, bool) {
	ip, err := manet.ToIP(a)
	if err != nil {
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(ip)
	return addr.Unmap(), ok
}

// circuitRelay returns the relay of a circuit address.
func circuitRelay(a ma.Multiaddr) (peer.ID, bool) {
	if a == nil {
		return "", false
	}
	before, circuit := ma.SplitFunc(a, func(c ma.Component) bool { return c.Protocol().Code == ma.P_CIRCUIT })
	if circuit == nil {
		return "", false
	}
	_, id := peer.SplitAddr(before)
	return id, true
}
