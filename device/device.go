// Package device is the junction of wice-go: wireguard-go's device above the bind, one ICE session for each peer, and the signaling
// that feeds them. What touches the machine (the TUN, its configuration, the signaling backends) arrives as a value.
//
// # The life of a peer
//
//	configured (file, UAPI) -> reconcile -> PeerEndpoint in the bind, Session -> offers <-> Router
//	pair selected           -> onPath    -> PeerEndpoint.SetPath, SetEndpointFromPacket, handshake
//	the path's MTU found    -> onMTU     -> packets inside clamped
//	removed                 -> reconcile -> session closed, endpoint dropped
//
// A drop-in device (Options.DropIn) follows the link; see link.go.
//
// # Locking
//
// Device.mu guards the table of peers. It is held neither across a call into wireguard-go nor across Session.Close or Router.Close, so
// the callbacks of sessions and router may take it. Set operations are serialized by uapiMu, which is taken before mu and by no callback;
// peer.mu is taken before mu too.
package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	wgdevice "golang.zx2c4.com/wireguard/device"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"github.com/wice-go/wice-go/bind"
	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/tun/clamp"
)

// Backend names a kind of signaling, the factory that makes it, and all the configured lines of that kind.
type Backend struct {
	Name    string
	Factory signal.Factory
	Lines   []url.Values
}

// Options says what a [Device] is made of.
type Options struct {
	Name   string         // required: the interface's name, for status and logs
	Config *config.Config // required; see Device.Reload
	Tun    wgtun.Device   // required; belongs to the device, which closes it, also when New fails

	// DropIn makes it behave as wireguard-go's: keys and peers come by the UAPI alone, and the interface goes down and up with the link of its
	// TUN. Config is what [config.LoadAdditions] returns.
	DropIn bool

	// TunKind is what status calls the TUN: "kernel" or "netstack".
	TunKind string

	// Backends carry the signaling. None: no ICE, just WireGuard.
	Backends []Backend

	// Ping sends one ICMP echo request through the tunnel and returns its round-trip time. Nil: ping is refused.
	Ping func(ctx context.Context, addr netip.Addr) (time.Duration, error)

	// IncludeLoopback lets loopback addresses be candidates: for peers on one machine without a network.
	IncludeLoopback bool

	// Resolver looks up the endpoints that are names. Nil: the system's, asked from sockets with the interface's mark.
	Resolver *net.Resolver

	Logger *slog.Logger // nil: slog.Default()
}

// Device is a running WireGuard interface with ICE. All methods are safe for concurrent use.
type Device struct {
	// Immutable.
	opts   Options
	log    *slog.Logger
	wg     *wgdevice.Device
	bind   *bind.Bind
	clamp  *clamp.Device   // between the TUN and wg
	ctx    context.Context // done when the device closes
	cancel context.CancelFunc
	net    *underlay
	link   *link // nil unless Options.DropIn
	tcp    tcpMux

	tasks   sync.WaitGroup
	overlay atomic.Pointer[map[netip.Addr]bool] // own addresses inside the tunnel
	table   table                               // WireGuard's peers; only changed under uapiMu
	file    atomic.Pointer[settings]            // replaced by Reload

	uapiMu       sync.Mutex                    // one set operation, with its reconcile, at a time; guards the following
	networkTypes []proto.NetworkType           // that sessions go by, which the mark limits
	port         uint16                        // that sessions go by
	mark         uint32                        // that the sockets have
	routed       uint32                        // the mark that the caller's routes go by
	started      bool                          // what runs until Close
	named        map[key.Public]*namedEndpoint // endpoints of the file that are names

	// What sessions and endpoints are yet to follow of WireGuard's table, also where reconcile has failed; guarded by uapiMu too.
	touched map[key.Public]bool // peers that were made, removed or given an endpoint; true: made to take part in ICE, with an endpoint in the bind
	whole   bool                // it may be all peers

	uapiBytes atomic.Int64 // of set operations that are being written

	closeOnce sync.Once

	mu       sync.RWMutex // guards all following
	up       bool         // signaling may run
	identity key.Private
	router   *signal.Router // nil while there is no private key, or not up
	peers    map[key.Public]*peer
	yielded  []yielded // the oldest first
}

// New makes the device and applies its configuration, without a packet sent. See [Device.Up].
func New(opts Options) (*Device, error) {
	d := &Device{
		opts:    opts,
		log:     opts.Logger,
		table:   table{members: make(map[key.Public]*member)},
		peers:   make(map[key.Public]*peer),
		touched: make(map[key.Public]bool),
	}
	if d.log == nil {
		d.log = slog.Default()
	}
	d.file.Store(newSettings(opts.Config))
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.refreshOverlay()
	d.bind = bind.New(bind.Options{
		Logger:           d.log,
		Exclude:          d.isOverlay,
		ExcludeInterface: d.isTunnel,
		IncludeLoopback:  opts.IncludeLoopback,
	})
	inner := opts.Tun
	if opts.DropIn {
		d.link = newLink(opts.Tun)
		inner = d.link
	}
	d.clamp = clamp.New(inner, d.table.clampOf)
	d.net = &underlay{bind: d.bind, exclude: d.isTunnel}
	d.named = namedEndpoints(d.ctx, opts.Config)
	d.wg = wgdevice.NewDevice(d.clamp, d.bind, wireguardLogger(d.log))
	var err error
	if d.networkTypes, err = networkTypes(opts.Config, marked(opts.Config)); err == nil && !opts.DropIn {
		err = d.ipcSet([]byte(opts.Config.UAPI()))
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Up opens the sockets, with fwmark on them unless it is 0, and starts signaling and sessions; it returns at once. A port in use is an
// error; an unreachable rendezvous is not. It is called once. With DropIn all this follows the link, and a port in use is logged.
func (d *Device) Up(fwmark uint32) error {
	d.uapiMu.Lock()
	defer d.uapiMu.Unlock()
	if d.ctx.Err() != nil {
		return errClosed
	}
	if d.link != nil {
		d.link.follow(d)
		return nil
	}
	if err := d.wg.Up(); err != nil {
		return err
	}
	if err := d.insistOnPort(); err != nil {
		return err
	}
	if fwmark != 0 {
		if err := d.wg.BindSetMark(fwmark); err != nil {
			return err
		}
	}
	d.routed = fwmark
	return d.startLocked()
}

// startLocked starts what needs the sockets of WireGuard, which are open. The caller holds uapiMu.
func (d *Device) startLocked() error {
	state, err := d.readState()
	if err != nil {
		return err
	}
	if err := d.useMark(state.fwmark); err != nil {
		return err
	}
	d.mu.Lock()
	d.up = true
	d.mu.Unlock()
	before := d.allPeers()
	d.whole = true
	err = d.reconcile()
	d.pace(before) // this and the rest also if that has failed: the next operation goes on
	if !d.started {
		d.started = true
		d.tasks.Go(d.watchNetwork)
		for _, n := range d.named {
			d.startFollow(n)
		}
	}
	return err
}

// stopLocked ends what needs the sockets of WireGuard, until the next startLocked. The caller holds uapiMu.
func (d *Device) stopLocked() {
	d.mu.Lock()
	d.up = false
	d.mu.Unlock()
	d.stopSignaling()
	d.tcp.Close()
}

// insistOnPort makes sure that WireGuard listens on the configured port. A TUN that reports itself up makes wireguard-go open the
// sockets by itself, and when that fails it only logs, and opens them on a random port the next time.
func (d *Device) insistOnPort() error {
	port := d.Config().Interface.ListenPort
	if port == nil || *port == 0 {
		return nil
	}
	state, err := d.readState()
	if err != nil || state.listenPort == *port {
		return err
	}
	return plainError(d.wg.IpcSet(fmt.Sprintf("listen_port=%d\n", *port)))
}

// plainError leaves the number out of wireguard-go's error, which is for the UAPI.
func plainError(err error) error {
	if coded := (*wgdevice.IPCError)(nil); errors.As(err, &coded) {
		return coded.Unwrap()
	}
	return err
}

// Close takes everything down: sessions, signaling, sockets, TUN. It is idempotent, and returns when all of it has ended.
func (d *Device) Close() {
	d.closeOnce.Do(func() {
		d.cancel()
		d.close()
		d.tasks.Wait()
		if d.link != nil {
			d.link.wait()
		}
	})
}

func (d *Device) close() {
	d.uapiMu.Lock() // a set operation under way ends first
	defer d.uapiMu.Unlock()
	d.stopLocked()
	d.wg.Close()
	d.bind.Shutdown()
}

// Done is closed when the interface has ended, also when it did so by itself because its TUN was deleted.
func (d *Device) Done() <-chan struct{} { return d.wg.Wait() }
