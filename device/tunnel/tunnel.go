// Package tunnel gives a Go program a WireGuard interface of its own: it dials and listens inside the tunnel as with package net, without
// root, a TUN or a daemon. ICE finds the paths to the peers, as for "wice-go up", which is made of this package.
//
//	cfg, err := config.Parse("", strings.NewReader(text)) // a wg-quick file; or config.Load(path)
//	t, err := tunnel.Open(tunnel.Options{Config: cfg})
//	defer t.Close()
//	err = t.Wait(ctx)                            // until every peer is connected; Dial waits too
//	conn, err := t.DialContext(ctx, "tcp", "bob:22") // a [Peer] with "#!wice Name = bob"
//	reply, err := t.HTTPClient().Get("http://bob/")
//	listener, err := t.Listen("tcp", ":80")      // for the peers alone
//
// Of the configuration, what tells wg-quick how to change the machine has no meaning here: Table, SaveConfig, the commands, the search
// domains, and Tun. What the lines Forward, SOCKS5 and HTTPProxy ask for is served.
//
// A process may have any number of tunnels. Each has its own addresses, routes and names, so they may even be the same.
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"time"

	wgtun "golang.zx2c4.com/wireguard/tun"

	"github.com/wice-go/wice-go/device"
	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/tun"
	"github.com/wice-go/wice-go/tun/netstack"
)

// closeGrace bounds what Close waits for connections to end at the other side too: that is a round trip, unless the peer is gone.
const closeGrace = time.Second

// Options says what a [Tunnel] is made of.
type Options struct {
	// Config is required. It may be the same for several tunnels, and is not to be changed while they use it.
	Config *config.Config

	// Name is what status and logs call the interface. "": that of the configuration's file.
	Name string

	// Backends are those that a Signaling line may name. Nil: [Backends].
	Backends map[string]signal.Factory

	// IncludeLoopback lets loopback addresses be candidates: for peers on one machine without a network.
	IncludeLoopback bool

	Logger *slog.Logger // nil: slog.Default()

	// Device carries the packets in place of a stack in this process: the kernel's TUN. Then there is no dialing and listening here, as the
	// kernel's stack does that. It belongs to the tunnel, which closes it, also when New fails. Nil: a stack of the tunnel's own.
	Device wgtun.Device

	// DropIn makes a tunnel of Device that is set up by other programs, as wireguard-go's are: see [device.Options].
	DropIn bool

	// Ping sends one ICMP echo request through Device and returns its round-trip time. Without Device it is not used.
	Ping func(ctx context.Context, addr netip.Addr) (time.Duration, error)

	// Wrap may put something between WireGuard and the device that carries the packets. Nil: nothing.
	Wrap func(wgtun.Device) wgtun.Device
}

// Tunnel is a WireGuard interface in this process. All methods are safe for concurrent use.
type Tunnel struct {
	// Constant after New.
	log      *slog.Logger
	dev      *device.Device
	stack    *netstack.Stack // nil with Options.Device
	http     *http.Transport
	ctx      context.Context // done when the tunnel closes
	cancel   context.CancelFunc
	patience time.Duration // of a dial, for a peer that is not connected

	closeOnce sync.Once

	reloading sync.Mutex // one Reload at a time

	mu      sync.Mutex // guards the following
	serving map[any]io.Closer
}

// Open makes a tunnel and starts it. It does not wait for the peers: see [Tunnel.Wait].
func Open(opts Options) (*Tunnel, error) {
	t, err := open(opts)
	if err != nil {
		return nil, fmt.Errorf("open tunnel: %w", err)
	}
	return t, nil
}

func open(opts Options) (*Tunnel, error) {
	switch cfg := opts.Config; {
	case cfg == nil:
		return nil, errors.New("there is no Config: take one of config.Parse or config.Load")
	case cfg.Interface.PrivateKey.IsZero():
		return nil, config.ErrNoPrivateKey
	case len(cfg.Interface.Addresses) == 0 && opts.Device == nil:
		return nil, errors.New("[Interface] has no Address, so that nothing could be reached")
	}
	t, err := New(opts)
	if err != nil {
		return nil, err
	}
	if err := t.Up(opts.Config.Interface.FwMark); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// New makes a tunnel without a packet sent, for those who have something to do before [Tunnel.Up]: others use [Open].
func New(opts Options) (*Tunnel, error) {
	t := &Tunnel{log: opts.Logger, patience: patience, serving: make(map[any]io.Closer)}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.http = newTransport(t.DialContext)
	if t.log == nil {
		t.log = slog.Default()
	}
	if opts.Backends == nil {
		opts.Backends = Backends()
	}
	o := device.Options{
		Name:            opts.Name,
		Config:          opts.Config,
		Tun:             opts.Device,
		DropIn:          opts.DropIn,
		TunKind:         config.TunKernel.String(),
		Ping:            opts.Ping,
		IncludeLoopback: opts.IncludeLoopback,
		Logger:          t.log,
	}
	if o.Name == "" {
		o.Name = nameOf(opts.Config.File)
	}
	var err error
	if opts.Device == nil {
		if t.stack, err = newStack(&opts.Config.Interface); err != nil {
			return nil, err
		}
		o.Tun, o.TunKind, o.Ping = t.stack.Device(), config.TunNetstack.String(), t.stack.Ping
	}
	if opts.Wrap != nil {
		o.Tun = opts.Wrap(o.Tun)
	}
	if o.Backends, err = backends(opts.Config, opts.Backends); err != nil {
		return nil, errors.Join(err, o.Tun.Close())
	}
	if t.dev, err = device.New(o); err != nil {
		return nil, err
	}
	if t.stack != nil {
		t.stack.UsePeers(t.dev)
	}
	return t, nil
}

func nameOf(file string) string {
	if file == "" {
		return "tunnel"
	}
	return strings.TrimSuffix(filepath.Base(file), ".conf")
}

func newStack(i *config.Interface) (*netstack.Stack, error) {
	addresses := make([]netip.Addr, 0, len(i.Addresses))
	for _, p := range i.Addresses {
		addresses = append(addresses, p.Addr())
	}
	mtu := i.MTU
	if mtu == 0 {
		mtu = tun.DefaultMTU
	}
	return netstack.New(addresses, i.DNS, mtu)
}

// Up starts a tunnel that [New] has made: it opens the sockets, with fwmark on them unless it is 0, and begins with signaling, sessions,
// forwards and proxies. A port in use is an error; an unreachable rendezvous is not. It is called once.
func (t *Tunnel) Up(fwmark uint32) error {
	if err := t.dev.Up(fwmark); err != nil {
		return err
	}
	if t.stack == nil {
		return nil
	}
	return t.serve(&t.dev.Config().Interface)
}

// Device returns the interface itself, for its configuration protocol (UAPI) and metrics.
func (t *Tunnel) Device() *device.Device { return t.dev }

// Stack returns the TCP/IP stack inside the tunnel; nil with Options.Device.
func (t *Tunnel) Stack() *netstack.Stack { return t.stack }

// Close ends the tunnel. What connections that were closed have yet to send is sent; to open ones, the other ends see a reset; that takes a
// round trip, or a second if the peer is gone. Then all that waits in a method fails with [net.ErrClosed]. Close is idempotent, and returns
// when all of it has ended.
func (t *Tunnel) Close() error {
	t.closeOnce.Do(func() {
		t.cancel()
		if t.stack != nil {
			ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
			t.stack.HangUp(ctx)
			cancel()
		}
		t.mu.Lock()
		for _, s := range t.serving {
			s.Close()
		}
		t.mu.Unlock()
		t.dev.Close()
		t.http.CloseIdleConnections()
	})
	return nil
}

// use reports, as an error, that there is no stack or that the tunnel is closed, or else nil.
func (t *Tunnel) use() error {
	switch {
	case t.ctx.Err() != nil:
		return net.ErrClosed
	case t.stack == nil:
		return errNoStack
	}
	return nil
}
