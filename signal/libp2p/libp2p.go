// Package libp2p carries envelopes over libp2p. A peer's libp2p identity is its WireGuard key (see package node), so a public key
// is all that is needed to find, dial and authenticate it. An envelope takes one short stream; the other end acknowledges it.
//
// Ways to a peer, in this order:
//
//  1. a connection that stands, the newest first
//  2. addresses that are known: from earlier connections and from multicast DNS on the local network
//  3. a circuit through each bootstrap, where every client keeps a reservation (these and 2 are dialled at the same time)
//  4. a query of the DHT, which the bootstraps serve
//
// Nobody else is spoken to: the connection gater admits configured peers, dials bootstraps, and dials servers that a DHT query
// names. A bootstrap may also hand out STUN and TURN servers.
//
// All sockets are made with the interface's Control. Only names in bootstrap addresses (/dns4/...) are looked up by the system's resolver,
// over its own sockets.
package libp2p

import (
	"context"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/libp2p/node"
)

// limits of a client: it talks to configured peers and a few servers, in messages of at most 16 KiB. A runaway must hit these before
// it hurts the machine.
var limits = node.Limits{
	Conns:          1024,     // a peer has one or two; idle ones are closed
	Streams:        4096,     // short-lived
	MemoryBytes:    64 << 20, // what libp2p accounts for: mostly receive windows
	ConnsPerPeer:   8,        // both dial at once, over two transports and two address families
	StreamsPerPeer: 64,       // a DHT server or a relay that opens more is broken
	ConnsPerIP:     128,      // many peers behind one NAT, and circuits count for the relay's address
	ConnRatePerIP:  10,
	ConnBurstPerIP: 128,
}

// Backend is the libp2p signaling backend. All methods are safe for concurrent use.
type Backend struct {
	// Constant after construction.
	env    signal.Env
	config Config
	log    *slog.Logger
	host   *node.Host
	gater  *gater
	dht    *finder // nil: off
	hello  chan struct{}
	relays []*relay
	ctx    context.Context
	cancel context.CancelFunc

	wg sync.WaitGroup // every goroutine, and every handler that calls the sink

	// mu guards all following.
	mu        sync.Mutex
	closed    bool
	lastUsed  map[peer.ID]time.Time // last envelope to or from the peer
	localNet  string                // state of multicast DNS in words; "" means that it works
	localIsOn bool
	heard     map[peer.ID]sighting      // announcements by multicast DNS, of configured peers and of others that may become so
	arrivals  map[peer.ID]*rate.Limiter // of envelopes
	dialling  map[peer.ID]bool          // peers that are dialled because of an announcement; true: there was another one since
}

var (
	_ signal.Backend         = (*Backend)(nil)
	_ signal.ICEServerSource = (*Backend)(nil)
	_ signal.Reacher         = (*Backend)(nil)
	_ signal.PeerChanger     = (*Backend)(nil)
	_ signal.Factory         = New
)

// New makes the backend from all lines of the configuration. It listens, but does not wait for the network: connections to the
// bootstraps are made in the background. ctx bounds the backend's life together with Close.
func New(ctx context.Context, env signal.Env, urls []url.Values) (signal.Backend, error) {
	config, err := ParseConfig(urls)
	if err != nil {
		return nil, err
	}
	return NewBackend(ctx, env, config)
}

// NewBackend is [New] for a configuration that was parsed before.
func NewBackend(ctx context.Context, env signal.Env, config Config) (*Backend, error) {
	identity, err := node.NewPrivateKey(env.Identity)
	if err != nil {
		return nil, err
	}
	b := &Backend{env: env, config: config, log: env.Logger, hello: make(chan struct{}, 1), lastUsed: map[peer.ID]time.Time{}, heard: map[peer.ID]sighting{}, arrivals: map[peer.ID]*rate.Limiter{}, dialling: map[peer.ID]bool{}}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.gater = &gater{
		bootstraps: map[peer.ID]bool{},
		peers:      map[peer.ID]key.Public{},
		ids:        map[key.Public]peer.ID{},
		servers:    map[peer.ID]bool{},
		exclude:    env.ExcludeAddr,
		loopback:   slices.ContainsFunc(config.Listen, isLoopback),
	}
	for _, info := range config.Bootstraps {
		b.gater.bootstraps[info.ID] = true
	}
	b.host, err = node.NewHost(node.Options{
		Key:       identity,
		Limits:    limits,
		Listen:    listenAddrs(config),
		ListenAll: len(config.Listen) > 0,
		Gater:     b.gater,
		Announce:  b.gater.filter,
		Control:   env.Control,
		Circuit:   len(config.Bootstraps) > 0,
	})
	if err != nil {
		return nil, err
	}
	if config.DHT && len(config.Bootstraps) > 0 {
		if b.dht, err = newFinder(b.host, b.gater, config.Bootstraps); err != nil {
			b.host.Close()
			return nil, err
		}
	}
	b.ctx, b.cancel = context.WithCancel(ctx)
	b.host.SetStreamHandler(node.SignalProtocol, b.receive)
	b.host.Network().Notify(&network.NotifyBundle{ConnectedF: b.connected, DisconnectedF: b.disconnected})
	for _, info := range config.Bootstraps {
		b.relays = append(b.relays, newRelay(b, info))
	}
	for _, r := range b.relays {
		b.wg.Go(r.run)
	}
	b.wg.Go(b.sweep)
	b.wg.Go(b.greet)
	if config.MDNS {
		b.wg.Go(b.discover)
	}
	return b, nil
}

// listenAddrs are ephemeral ports everywhere unless the configuration names some.
func listenAddrs(c Config) []ma.Multiaddr {
	if len(c.Listen) > 0 {
		return c.Listen
	}
	return []ma.Multiaddr{
		ma.StringCast("/ip4/0.0.0.0/tcp/0"), ma.StringCast("/ip4/0.0.0.0/udp/0/quic-v1"),
		ma.StringCast("/ip6/::/tcp/0"), ma.StringCast("/ip6/::/udp/0/quic-v1"),
	}
}

func isLoopback(a ma.Multiaddr) bool {
	ip, ok := addrOf(a)
	return ok && ip.IsLoopback()
}

// SetPeers implements [signal.Backend]. Connections to peers that are no longer configured are closed. A key without a peer ID
// (see [key.Public.Validate]) is nobody's and is left out.
func (b *Backend) SetPeers(peers []key.Public) {
	b.follow(b.gater.setPeers(b.peerIDs(peers)))
}

// ChangePeers implements [signal.PeerChanger], as SetPeers does [signal.Backend].
func (b *Backend) ChangePeers(added, removed []key.Public) {
	b.follow(b.gater.changePeers(b.peerIDs(added), removed))
}

func (b *Backend) peerIDs(peers []key.Public) map[key.Public]peer.ID {
	ids := make(map[key.Public]peer.ID, len(peers))
	for _, k := range peers {
		id, ok := b.gater.id(k)
		if !ok {
			var err error
			if id, err = node.PeerID(k); err != nil {
				b.log.Warn("peer left out of libp2p signaling", "peer", k.Short(), "error", err)
				continue
			}
		}
		if id != b.host.ID() {
			ids[k] = id
		}
	}
	return ids
}

// follow takes leave of peers that are gone, and looks for those that were added.
func (b *Backend) follow(gone, added []peer.ID) {
	for _, id := range gone {
		b.mu.Lock()
		delete(b.lastUsed, id)
		delete(b.arrivals, id)
		b.mu.Unlock()
		if !b.gater.bootstraps[id] {
			b.host.Network().ClosePeer(id)
			b.host.Peerstore().ClearAddrs(id)
		}
	}
	for _, id := range added {
		b.mu.Lock()
		s, ok := b.heard[id]
		b.mu.Unlock()
		if ok && time.Since(s.at) < foundTTL {
			b.found(s.info)
		}
	}
	for _, id := range added {
		if k, ok := b.gater.key(id); ok && b.mayDial(id) && b.enter() { // whoever asked Reach before is waiting
			b.env.Sink.PeerAvailable(k)
			b.wg.Done()
		}
	}
	if len(added) > 0 {
		wake(b.hello)
	}
}

// Addrs returns the multiaddrs, with peer ID, under which this node listens and which it announces.
func (b *Backend) Addrs() []ma.Multiaddr {
	id := ma.StringCast("/p2p/" + b.host.ID().String())
	var addrs []ma.Multiaddr
	for _, a := range b.host.Addrs() {
		addrs = append(addrs, a.Encapsulate(id))
	}
	return addrs
}

// connected tells the sink that a peer is there. The host calls it synchronously.
func (b *Backend) connected(_ network.Network, c network.Conn) {
	for _, r := range b.relays {
		if r.info.ID == c.RemotePeer() {
			r.untold.Store(true)
		}
	}
	k, ok := b.gater.key(c.RemotePeer())
	if !ok || !b.enter() {
		return
	}
	defer b.wg.Done()
	b.used(c.RemotePeer())
	b.env.Sink.PeerAvailable(k)
}

func (b *Backend) disconnected(_ network.Network, c network.Conn) {
	for _, r := range b.relays {
		if r.info.ID == c.RemotePeer() {
			wake(r.lost)
		}
	}
}

// enter registers the caller as one who may use the sink, unless Close has begun. If true, the caller must call b.wg.Done.
func (b *Backend) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.wg.Add(1)
	return true
}

func (b *Backend) used(id peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lastUsed[id] = time.Now()
}

// Close implements [signal.Backend].
func (b *Backend) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.gater.closing.Store(true)
	b.cancel()
	if b.dht != nil {
		b.dht.dht.Close()
	}
	err := b.host.Close()
	b.wg.Wait()
	if b.dht != nil {
		b.dht.wg.Wait() // not before: whoever is in Publish may start one more query
	}
	return err
}

// ICEServers implements [signal.ICEServerSource].
func (b *Backend) ICEServers() []proto.ICEServer {
	var all []proto.ICEServer
	for _, r := range b.relays {
		for _, s := range r.iceServers(time.Now()) {
			if !slices.Contains(all, s) {
				all = append(all, s)
			}
		}
	}
	return all
}
