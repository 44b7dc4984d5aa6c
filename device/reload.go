package device

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/proto/key"
)

// settings are what the file says. They are immutable.
type settings struct {
	config *config.Config
	peers  map[key.Public]config.Peer
	names  map[string][]key.Public // in lower case; in the order of the file
}

func newSettings(c *config.Config) *settings {
	s := &settings{config: c, peers: make(map[key.Public]config.Peer, len(c.Peers)), names: make(map[string][]key.Public)}
	for _, p := range c.Peers {
		s.peers[p.PublicKey] = p
		if name := strings.ToLower(p.Name); name != "" {
			s.names[name] = append(s.names[name], p.PublicKey)
		}
	}
	return s
}

// Config returns what is in force: Options.Config, or what the last [Device.Reload] has made of it. It is not to be changed.
func (d *Device) Config() *config.Config { return d.file.Load().config }

// peerConfig is what the file says of a peer; the zero value for one that it does not have.
func (d *Device) peerConfig(pk key.Public) config.Peer { return d.file.Load().peers[pk] }

// Reload makes the running interface what the file says, and leaves alone what does not differ: a peer without a change keeps its session,
// its path and its keys, and loses no packet. The result says what has changed, and what can't while the interface is up. After an error about
// the port nothing has changed; after another one the rest may have, and the next Reload goes on. See [config.PlanReload], and, for
// Options.DropIn, [config.PlanAdditions].
//
// The routes and the mark are the caller's: see [Device.SetMark].
func (d *Device) Reload(file *config.Config) (*config.Reload, error) {
	d.uapiMu.Lock()
	defer d.uapiMu.Unlock()
	if d.ctx.Err() != nil {
		return nil, errClosed
	}
	plan, err := d.planReload(file)
	if err != nil || len(plan.Changes) == 0 && !d.whole { // else the last one is to go on
		return plan, err
	}
	if plan.Has("ListenPort") {
		if err := d.setPort(plan.Config.Interface.ListenPort); err != nil {
			return nil, err
		}
	}
	d.file.Store(newSettings(plan.Config))
	d.whole = true // the file may say other things of any of them
	var named []*namedEndpoint
	var plain []func()
	for _, c := range plan.Changes {
		if c.Added || c.Gone || c.Has("Endpoint") {
			d.stopNamed(c.Peer)
		}
		if c.Has("Endpoint") {
			d.setStatic(c.Peer, netip.AddrPort{}) // it has none any more, or none yet, unless the operation sets one
		}
		if c.Has("ICE") && d.peerConfig(c.Peer).ICE == config.ICEOff {
			plain = append(plain, d.plainLater(c.Peer))
		}
	}
	for pk, n := range namedEndpoints(d.ctx, plan.Config) {
		if d.named[pk] != nil {
			n.cancel()
			continue
		}
		named, d.named[pk] = append(named, n), n
	}
	err = d.applySet([]byte(plan.Set))
	for _, f := range plain {
		f()
	}
	if d.started { // else Up follows them with the others
		for _, n := range named {
			d.startFollow(n)
		}
	}
	d.eachPeer(func(p *peer) {
		p.session.SetLazy(d.isLazy(p.key))
		if plan.Has("ICEServer") {
			p.session.ICEServersChanged()
		}
	})
	d.pace(d.allPeers())
	if err != nil {
		return nil, fmt.Errorf("not all changes could be made: %w", err)
	}
	return plan, nil
}

func (d *Device) planReload(file *config.Config) (*config.Reload, error) {
	if d.opts.DropIn {
		return config.PlanAdditions(d.Config(), file), nil
	}
	state, err := d.UAPIState()
	if err != nil {
		return nil, err
	}
	return config.PlanReload(d.Config(), state, file)
}

// setPort makes WireGuard listen on another port, 0 or nil for a random one, or leaves it where it is.
func (d *Device) setPort(port *uint16) error {
	var want uint16
	if port != nil {
		want = *port
	}
	before := d.bind.Port()
	err := d.wg.IpcSet(fmt.Sprintf("listen_port=%d\n", want))
	if err == nil {
		return nil
	}
	if back := d.wg.IpcSet(fmt.Sprintf("listen_port=%d\n", before)); back != nil {
		return fmt.Errorf("ListenPort = %d: %w; and the former port %d can't be had again: %w", want, plainError(err), before, plainError(back))
	}
	return fmt.Errorf("ListenPort = %d: %w; nothing was changed", want, plainError(err))
}

// stopNamed ends the look-ups for a peer. The caller holds uapiMu.
func (d *Device) stopNamed(pk key.Public) {
	if n := d.named[pk]; n != nil {
		n.cancel()
		delete(d.named, pk)
	}
}

// plainLater returns what leaves a peer at its endpoint of the file, or else at the address where it is now, once it has no ICE any more.
func (d *Device) plainLater(pk key.Public) func() {
	p := d.lookup(pk)
	if p == nil {
		return func() {}
	}
	now, _ := netip.ParseAddrPort(p.endpoint.DstToString())
	return func() {
		addr := now
		if static := d.table.static(pk); static.IsValid() {
			addr = static
		}
		if addr.IsValid() && addr.Port() != 0 {
			d.setPlain(pk, addr)
		}
	}
}

// SetMark puts the mark on the sockets, 0 for none.
func (d *Device) SetMark(fwmark uint32) error {
	d.uapiMu.Lock()
	defer d.uapiMu.Unlock()
	if d.ctx.Err() != nil {
		return errClosed
	}
	if err := d.wg.BindSetMark(fwmark); err != nil {
		return err
	}
	d.routed = fwmark
	return d.useMark(fwmark)
}
