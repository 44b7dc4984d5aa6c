package device

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	wgdevice "golang.zx2c4.com/wireguard/device"

	"github.com/wice-go/wice-go/bind"
	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/session"
	"github.com/wice-go/wice-go/tun/clamp"
)

const (
	// sessionPace is the time between the starts of two sessions when many start with the interface: 100 peers are under way
	// within a second, and 10,000 do not gather candidates all at once.
	sessionPace = 10 * time.Millisecond

	// yieldTime is how long the ICE-controlled side leaves the handshake over a new path to the other. Two initiations that
	// cross cost WireGuard's retry time of 5 s, since each side forgets its own when it answers the other's.
	yieldTime = 700 * time.Millisecond

	// yieldCheck is the least time between two looks at what became of yielded handshakes.
	yieldCheck = 100 * time.Millisecond
)

// peer is one WireGuard peer that takes part in ICE.
type peer struct {
	// Immutable.
	key      key.Public
	endpoint *bind.PeerEndpoint
	session  *session.Session
	clamp    clamp.Peer

	mu   sync.Mutex // guards all following
	ice  bool       // the path in use came from ICE
	gen  uint64     // generation of the last path
	path *bind.Path // what ICE found, nil without
	mtu  pathMTU
}

// isICE reports whether a peer of WireGuard's table takes part in ICE: unless the file says "off", or nobody can have its key. That takes
// long to find out, and is so if valid says it.
func (d *Device) isICE(pk key.Public, valid bool) bool {
	return len(d.opts.Backends) > 0 && d.peerConfig(pk).ICE != config.ICEOff && (valid || pk.Validate() == nil)
}

// reconcile makes sessions and endpoints follow WireGuard's own table of peers: those of the peers that were touched or, where that may not be
// all, those of all peers. The caller holds uapiMu.
func (d *Device) reconcile() (err error) {
	whole := d.whole
	defer func() {
		if d.whole = err != nil; !d.whole {
			d.touched = make(map[key.Public]bool)
		}
	}()
	concerned := slices.Collect(maps.Keys(d.touched))
	if whole {
		if concerned, err = d.survey(); err != nil {
			return err
		}
	}
	var wanted, unwanted []key.Public
	var detached []key.Public // peers whose endpoint in WireGuard is not that of the bind
	d.mu.RLock()
	up, keyless := d.up, d.identity.IsZero()
	for _, pk := range concerned {
		made, touched := d.touched[pk]
		if keyless || !d.table.has(pk) || !d.isICE(pk, made || d.peers[pk] != nil) {
			unwanted = append(unwanted, pk)
			continue
		}
		wanted = append(wanted, pk)
		if touched || d.peers[pk] == nil {
			detached = append(detached, pk)
		}
	}
	d.mu.RUnlock()
	d.dropPeers(unwanted)
	for _, pk := range unwanted {
		if d.touched[pk] { // made and removed, or without a session
			d.bind.RemovePeer(pk)
		}
	}
	d.followTCP(up)
	d.followPort()
	if keyless {
		return nil
	}
	added, err := d.addPeers(wanted)
	if err != nil {
		return err
	}
	for _, pk := range wanted {
		p := d.lookup(pk)
		d.table.edit(pk, func(m *member) { m.clamp.Store(&p.clamp) })
	}
	for _, pk := range detached {
		d.attach(d.lookup(pk))
	}
	if !up {
		return nil
	}
	err = d.followSignaling(whole, wanted, unwanted)
	d.pace(added) // also if that has failed: their offers are repeated
	return err
}

// survey reads what WireGuard has, and returns all peers: those and the ones that are gone. It touches those that have no endpoint at all.
func (d *Device) survey() ([]key.Public, error) {
	state, err := d.readState()
	if err != nil {
		return nil, err
	}
	if err := d.useMark(state.fwmark); err != nil {
		return nil, err
	}
	if state.privateKey != d.privateKey() {
		d.stopSignaling()
		d.mu.Lock()
		d.identity = state.privateKey
		d.mu.Unlock()
	}
	all := maps.Clone(d.touched)
	for i := range state.peers {
		all[state.peers[i].publicKey] = true
		if state.peers[i].endpoint == "" {
			d.touch(state.peers[i].publicKey)
		}
	}
	for _, p := range d.allPeers() {
		all[p.key] = true
	}
	return slices.Collect(maps.Keys(all)), nil
}

// useMark follows the mark of the underlay's sockets, which the bind has set on those that are open too. Sessions stay, but those over TCP,
// which can't carry one: see networkTypes. The caller holds uapiMu.
func (d *Device) useMark(mark uint32) error {
	if mark != d.mark && mark != d.routed && d.routed != 0 && d.opts.TunKind == "kernel" && fullTunnel(d.Config()) {
		d.log.Warn("the mark was changed, but not in the rules of the default route: packets for peers are routed into the tunnel, and lost",
			"mark", fmt.Sprintf("%#x", mark), "remedy", fmt.Sprintf("wg set %s fwmark %#x", d.opts.Name, d.routed))
	}
	d.mark = mark
	types, err := networkTypes(d.Config(), mark != 0 || marked(d.Config()))
	if err != nil || slices.Equal(types, d.networkTypes) {
		return err
	}
	d.networkTypes = types
	d.eachPeer(func(p *peer) { p.session.SetNetworkTypes(types) })
	return nil
}

// dropPeers closes the sessions of peers that are to have none.
func (d *Device) dropPeers(unwanted []key.Public) {
	var gone []*peer
	d.mu.Lock()
	for _, pk := range unwanted {
		if p := d.peers[pk]; p != nil {
			gone = append(gone, p)
			delete(d.peers, pk)
		}
	}
	d.mu.Unlock()
	d.closePeers(gone)
}

func (d *Device) closePeers(peers []*peer) {
	var wait sync.WaitGroup
	for _, p := range peers {
		wait.Go(func() {
			p.session.Close()
			d.bind.RemovePeer(p.key)
			d.forgetMTU(p)
		})
	}
	wait.Wait()
}

// addPeers makes the endpoint and the session of each wanted peer that has none, and returns the new ones.
func (d *Device) addPeers(wanted []key.Public) (added []*peer, err error) {
	d.mu.RLock()
	identity := d.identity
	var missing []key.Public
	for _, pk := range wanted {
		if d.peers[pk] == nil {
			missing = append(missing, pk)
		}
	}
	d.mu.RUnlock()
	if len(missing) == 0 {
		return nil, nil
	}
	options := session.Options{
		Local:           identity.Public(),
		ICEServers:      d.iceServers,
		CandidateTypes:  d.Config().Interface.CandidateTypes,
		NetworkTypes:    d.networkTypes,
		TCPMux:          &d.tcp,
		Mux:             d.bind.Mux(),
		Net:             d.net,
		RelayStream:     func(c net.Conn) net.Conn { return d.bind.NewTURNStream(c) },
		ExcludeAddr:     d.isOverlay,
		IncludeLoopback: d.opts.IncludeLoopback,
		Logger:          d.log,
	}
	for _, pk := range missing {
		p := &peer{key: pk, endpoint: d.bind.Peer(pk)}
		options.Remote, options.Name, options.Lazy = pk, d.displayName(pk), d.isLazy(pk)
		options.Send = func(ctx context.Context, o *proto.Offer) error { return d.sendOffer(ctx, p.key, o) }
		options.Reach = func() error { return d.reach(p.key) }
		options.OnPath = func(path *session.Path) { d.onPath(p, path) }
		s, err := session.New(options)
		if err != nil {
			return added, fmt.Errorf("peer %s: %w", pk, err)
		}
		p.session = s
		p.endpoint.SetWanted(s.Start)
		d.mu.Lock()
		d.peers[pk] = p
		d.mu.Unlock()
		added = append(added, p)
	}
	return added, nil
}

// pace starts the sessions of peers that are not lazy, one after another; the first one starts at once, however many of others are yet to come.
func (d *Device) pace(peers []*peer) {
	d.mu.RLock()
	up := d.up
	d.mu.RUnlock()
	if !up || len(peers) == 0 {
		return
	}
	d.tasks.Go(func() {
		tick := time.NewTicker(sessionPace)
		defer tick.Stop()
		for _, p := range peers {
			if d.isLazy(p.key) || p.session.Status().State != session.Idle {
				continue
			}
			p.session.Start()
			select {
			case <-tick.C:
			case <-d.ctx.Done():
				return
			}
		}
	})
}

func (d *Device) allPeers() []*peer {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Collect(maps.Values(d.peers))
}

func (d *Device) isLazy(pk key.Public) bool {
	if lazy := d.peerConfig(pk).Lazy; lazy != nil {
		return *lazy
	}
	return d.Config().Interface.Lazy
}

func (d *Device) displayName(pk key.Public) string {
	if name := d.peerConfig(pk).Name; name != "" {
		return name
	}
	return pk.Short()
}

func (d *Device) lookup(pk key.Public) *peer {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.peers[pk]
}

// attach makes WireGuard send to the peer through its endpoint in the bind, which holds the initiation while there is no path. An endpoint
// that was set by hand is the path until ICE finds one.
func (d *Device) attach(p *peer) {
	p.mu.Lock()
	if !p.ice {
		p.endpoint.SetPath(d.staticPath(p.key))
	}
	p.mu.Unlock()
	if wp := d.wg.LookupPeer(wgdevice.NoisePublicKey(p.key)); wp != nil {
		wp.SetEndpointFromPacket(p.endpoint)
		p.endpoint.FlushHeld()
	}
}

// staticPath is the path to the endpoint that was set by hand, nil if there is none.
func (d *Device) staticPath(pk key.Public) *bind.Path {
	if addr := d.table.static(pk); addr.IsValid() {
		return bind.NewStaticPath(addr)
	}
	return nil
}

// setPlain makes WireGuard send to an address that ICE has nothing to do with.
func (d *Device) setPlain(pk key.Public, addr netip.AddrPort) {
	wp := d.wg.LookupPeer(wgdevice.NoisePublicKey(pk))
	if wp == nil {
		return
	}
	if ep, err := d.bind.ParseEndpoint(addr.String()); err == nil {
		wp.SetEndpointFromPacket(ep)
	}
}

// onPath follows the pair that ICE selected. The session calls it.
func (d *Device) onPath(p *peer, path *session.Path) {
	p.mu.Lock()
	var next *bind.Path
	switch {
	case path == nil:
		next = d.staticPath(p.key)
	case path.Direct:
		next = bind.NewDirectPath(path.Base.Addr(), path.Remote.Address)
	default:
		next = bind.NewConnPath(path.Conn, path.Local.Address, path.Remote.Address)
		if c, ok := path.Carrier.(bind.Carrier); ok {
			next = bind.NewRelayPath(c, path.Conn, path.Local.Address, path.Remote.Address)
		}
	}
	p.ice = path != nil
	fresh := path != nil && path.Generation != p.gen
	if path != nil {
		p.gen = path.Generation
	}
	yield := fresh && d.privateKey().Public().Compare(p.key) > 0
	if yield {
		p.endpoint.SetYield(true) // first, as WireGuard may have a packet for the path at once
	}
	p.endpoint.SetPath(next)
	p.path = next
	d.discoverLocked(p, path)
	p.mu.Unlock()

	wp := d.wg.LookupPeer(wgdevice.NoisePublicKey(p.key))
	if wp == nil || path == nil {
		return
	}
	wp.SetEndpointFromPacket(p.endpoint)
	switch {
	case yield:
		d.yieldHandshake(p)
	case fresh:
		d.handshake(p, wp)
	}
}

// yielded is a peer that was left the handshake over its new path.
type yielded struct {
	peer  *peer
	since time.Time
}

// yieldHandshake looks after a while whether the peer made the handshake that was left to it.
func (d *Device) yieldHandshake(p *peer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.yielded = append(d.yielded, yielded{p, time.Now()})
	if len(d.yielded) == 1 {
		time.AfterFunc(yieldTime, d.checkYielded)
	}
}

// checkYielded makes the handshakes that others did not make in time. It reads WireGuard's state once for all of them.
func (d *Device) checkYielded() {
	if d.ctx.Err() != nil {
		return
	}
	d.mu.Lock()
	n := 0
	for n < len(d.yielded) && time.Since(d.yielded[n].since) >= yieldTime {
		n++
	}
	due := slices.Clone(d.yielded[:n])
	d.yielded = slices.Delete(d.yielded, 0, n) // which keeps no reference to them
	if len(d.yielded) > 0 {
		time.AfterFunc(max(yieldTime-time.Since(d.yielded[0].since), yieldCheck), d.checkYielded)
	}
	d.mu.Unlock()
	state, err := d.readState()
	if err != nil {
		return
	}
	last := make(map[key.Public]time.Time, len(state.peers))
	for _, w := range state.peers {
		last[w.publicKey] = w.lastHandshake
	}
	for _, y := range due {
		if last[y.peer.key].After(y.since) {
			y.peer.endpoint.SetYield(false)
		} else if wp := d.wg.LookupPeer(wgdevice.NoisePublicKey(y.peer.key)); wp != nil {
			d.handshake(y.peer, wp)
		}
	}
}

// handshake sends the initiation that waited for a path, else a new one (at most one in 5 s, which wireguard-go sees to).
func (d *Device) handshake(p *peer, wp *wgdevice.Peer) {
	if !p.endpoint.FlushHeld() {
		wp.SendHandshakeInitiation(false)
	}
}

func (d *Device) privateKey() key.Private {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.identity
}

// followSignaling makes the router and its backends where there are none yet, and tells them who the peers are: all that have a session,
// or what has changed of them.
func (d *Device) followSignaling(whole bool, wanted, unwanted []key.Public) error {
	d.mu.RLock()
	router, identity := d.router, d.identity
	d.mu.RUnlock()
	if router == nil && len(d.opts.Backends) > 0 {
		router = signal.NewRouter(signal.RouterOptions{
			Identity:            identity,
			Logger:              d.log,
			OnOffer:             d.onOffer,
			OnPeerAvailable:     d.onPeerAvailable,
			OnICEServersChanged: d.onICEServersChanged,
		})
		for _, b := range d.opts.Backends {
			backend, err := b.Factory(d.ctx, signal.Env{
				Identity:    identity,
				Sink:        router,
				Control:     d.bind.ControlSocket,
				ExcludeAddr: d.isOverlay,
				Logger:      d.log.With("backend", b.Name),
			}, b.Lines)
			if err != nil {
				return errors.Join(fmt.Errorf("signaling %s: %w", b.Name, err), router.Close())
			}
			router.Add(backend)
		}
		d.mu.Lock()
		d.router = router
		d.mu.Unlock()
	}
	switch {
	case router == nil:
	case whole:
		router.SetPeers(wanted)
	default:
		router.ChangePeers(wanted, unwanted)
	}
	return nil
}

// stopSignaling closes the sessions, which say good-bye to nobody, and the router. The caller holds uapiMu.
func (d *Device) stopSignaling() {
	d.whole = true
	d.mu.Lock()
	router := d.router
	peers := slices.Collect(maps.Values(d.peers))
	d.router = nil
	clear(d.peers)
	d.mu.Unlock()
	d.closePeers(peers)
	for _, p := range peers {
		if addr := d.table.static(p.key); addr.IsValid() {
			d.setPlain(p.key, addr) // else the interface forgets it while it is down, or has no key
		}
	}
	if router != nil {
		router.Close()
	}
}

var errNoSignaling = errors.New("signaling is not running")

func (d *Device) sendOffer(ctx context.Context, pk key.Public, o *proto.Offer) error {
	d.mu.RLock()
	router := d.router
	d.mu.RUnlock()
	if router == nil {
		return errNoSignaling
	}
	return router.Send(ctx, pk, o)
}

// reach returns why no offer can be sent to the peer at present.
func (d *Device) reach(pk key.Public) error {
	d.mu.RLock()
	router := d.router
	d.mu.RUnlock()
	if router == nil {
		return nil // Send has the error
	}
	return router.Reach(pk)
}

func (d *Device) onOffer(pk key.Public, o *proto.Offer) {
	if p := d.lookup(pk); p != nil {
		p.session.HandleOffer(o)
	}
}

func (d *Device) onPeerAvailable(pk key.Public) {
	if p := d.lookup(pk); p != nil {
		p.session.PeerAvailable()
	}
}

func (d *Device) onICEServersChanged() {
	d.eachPeer(func(p *peer) { p.session.ICEServersChanged() })
}

func (d *Device) eachPeer(f func(*peer)) {
	for _, p := range d.allPeers() {
		f(p)
	}
}

// iceServers returns the servers of the file and those that the signaling learned.
func (d *Device) iceServers() []proto.ICEServer {
	servers := d.Config().Interface.ICEServers
	d.mu.RLock()
	router := d.router
	d.mu.RUnlock()
	if router != nil {
		servers = append(servers[:len(servers):len(servers)], router.ICEServers()...)
	}
	return servers
}
