package node

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/core/transport"
	bhost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	circuit "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	quicgo "github.com/quic-go/quic-go"
)

const (
	// rateMemory is how long the rate limiter remembers an address that is quiet.
	rateMemory = time.Minute

	// dialTimeout bounds one dial, handshakes included. Far longer than any working path needs, and short enough that the next
	// way to the peer gets its turn.
	dialTimeout = 5 * time.Second

	// negotiateTimeout bounds the choice of a protocol on a new stream.
	negotiateTimeout = 5 * time.Second

	userAgent = "wice"
)

// Options configure a host.
type Options struct {
	Key    crypto.PrivKey // required
	Limits Limits         // required

	// Listen has the addresses; with ListenAll each of them must work, otherwise one is enough (there may be no IPv6).
	Listen    []ma.Multiaddr
	ListenAll bool

	Gater    connmgr.ConnectionGater                                // nil: everyone is welcome
	Announce func([]ma.Multiaddr) []ma.Multiaddr                    // what others are told; nil: everything
	Control  func(network, address string, c syscall.RawConn) error // applied to every socket; nil: nothing
	Circuit  bool                                                   // dial and accept through circuit relays
}

// Host is a libp2p host over TCP (Noise, yamux) and QUIC. It is put together by hand, because the root package of go-libp2p links
// WebRTC, WebTransport and a dependency injector into every program.
type Host struct {
	host.Host
	swarm *swarm.Swarm
	quic  *quicreuse.ConnManager
	close func() error
}

// NewHost makes a host and listens. It does not dial.
func NewHost(o Options) (*Host, error) {
	id, err := peer.IDFromPrivateKey(o.Key)
	if err != nil {
		return nil, fmt.Errorf("libp2p host: %w", err)
	}
	var undo []func() error
	fail := func(err error) (*Host, error) {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
		return nil, fmt.Errorf("libp2p host: %w", err)
	}

	resources, err := NewResources(o.Limits)
	if err != nil {
		return fail(err)
	}
	undo = append(undo, resources.Close)
	store, err := pstoremem.NewPeerstore()
	if err != nil {
		return fail(err)
	}
	undo = append(undo, store.Close)
	if err := errors.Join(store.AddPrivKey(id, o.Key), store.AddPubKey(id, o.Key.GetPublic())); err != nil {
		return fail(err)
	}

	bus := eventbus.NewBus()
	swarmOptions := []swarm.Option{
		swarm.WithResourceManager(resources),
		swarm.WithDialTimeout(dialTimeout),
		swarm.WithDialTimeoutLocal(dialTimeout),
		swarm.WithDialRanker(swarm.NoDelayDialRanker), // few addresses, small messages: the first that answers is best
		// Black hole detection would remember "no UDP here" for a network that was left long ago.
		swarm.WithUDPBlackHoleSuccessCounter(nil),
		swarm.WithIPv6BlackHoleSuccessCounter(nil),
	}
	if o.Gater != nil {
		swarmOptions = append(swarmOptions, swarm.WithConnectionGater(o.Gater))
	}
	sw, err := swarm.NewSwarm(id, store, bus, swarmOptions...)
	if err != nil {
		return fail(err)
	}
	undo = append(undo, sw.Close)

	muxers := []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}}
	secure, err := noise.New(noise.ID, o.Key, muxers)
	if err != nil {
		return fail(err)
	}
	up, err := upgrader.New([]sec.SecureTransport{secure}, muxers, nil, resources, o.Gater)
	if err != nil {
		return fail(err)
	}
	if err := addTCP(sw, up, resources, o.Control); err != nil {
		return fail(err)
	}
	reuse, err := addQUIC(sw, o, resources)
	if err != nil {
		return fail(err)
	}
	undo = append(undo, reuse.Close)

	bh, err := bhost.NewHost(sw, &bhost.HostOpts{
		EventBus:           bus,
		AddrsFactory:       o.Announce,
		EnablePing:         true,
		NegotiationTimeout: negotiateTimeout,
		UserAgent:          userAgent,
	})
	if err != nil {
		return fail(err)
	}
	if o.Circuit {
		if err := circuit.AddTransport(bh, up); err != nil {
			bh.Close()
			return fail(err)
		}
	}
	bh.Start()
	h := &Host{Host: bh, swarm: sw, quic: reuse}
	h.close = sync.OnceValue(func() error { return errors.Join(bh.Close(), reuse.Close()) })
	if err := h.listen(o.Listen, o.ListenAll); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

func (h *Host) listen(addrs []ma.Multiaddr, all bool) error {
	var errs []error
	for _, a := range addrs {
		if err := h.swarm.AddListenAddr(a); err != nil {
			errs = append(errs, fmt.Errorf("libp2p listen on %s: %w", a, err))
		}
	}
	if len(errs) > 0 && (all || len(errs) == len(addrs)) {
		return errors.Join(errs...)
	}
	return nil
}

// ForgetFailures lets the next dial of the peer happen at once: after a failure libp2p refuses to dial an address for seconds, but
// the callers here have a back-off of their own.
func (h *Host) ForgetFailures(id peer.ID) { h.swarm.Backoff().Clear(id) }

// Close closes everything and is idempotent.
func (h *Host) Close() error { return h.close() }

// tcpTransport adds to libp2p's TCP transport that listening sockets are made with Control and without SO_REUSEPORT: with it, two
// servers could share a port, each getting a random half of the clients.
type tcpTransport struct {
	*tcp.TcpTransport
	upgrader transport.Upgrader
	config   net.ListenConfig
}

func (t *tcpTransport) Listen(a ma.Multiaddr) (transport.Listener, error) {
	network, address, err := manet.DialArgs(a)
	if err != nil {
		return nil, err
	}
	l, err := t.config.Listen(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	ml, err := manet.WrapNetListener(&controlledListener{l, t.config.Control})
	if err != nil {
		l.Close()
		return nil, err
	}
	return t.upgrader.UpgradeGatedMaListener(t, t.upgrader.GateMaListener(ml)), nil
}

// controlledListener applies Control to what it accepts too: a socket has the mark of its listener only as that was then.
type controlledListener struct {
	net.Listener
	control func(network, address string, c syscall.RawConn) error
}

func (l *controlledListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || l.control == nil {
			return c, err
		}
		raw, err := c.(syscall.Conn).SyscallConn()
		if err == nil {
			err = l.control("tcp", c.RemoteAddr().String(), raw)
		}
		if err == nil {
			return c, nil
		}
		c.Close()
	}
}

func addTCP(sw *swarm.Swarm, up transport.Upgrader, resources network.ResourceManager, control func(string, string, syscall.RawConn) error) error {
	dialer := &net.Dialer{Control: control}
	t, err := tcp.NewTCPTransport(up, resources, nil, tcp.DisableReuseport(),
		tcp.WithConnectionTimeout(dialTimeout),
		tcp.WithDialerForAddr(func(ma.Multiaddr) (tcp.ContextDialer, error) { return dialer, nil }))
	if err != nil {
		return err
	}
	return sw.AddTransport(&tcpTransport{TcpTransport: t, upgrader: up, config: net.ListenConfig{Control: control}})
}

func addQUIC(sw *swarm.Swarm, o Options, resources network.ResourceManager) (*quicreuse.ConnManager, error) {
	raw, err := o.Key.Raw()
	if err != nil {
		return nil, err
	}
	// Both keys outlive a restart, so that the peers of a restarted host learn at once that their connections are gone.
	reset, err := hkdf.Key(sha256.New, raw, nil, "wice quic stateless reset v1", len(quicgo.StatelessResetKey{}))
	if err != nil {
		return nil, err
	}
	token, err := hkdf.Key(sha256.New, raw, nil, "wice quic token v1", len(quicgo.TokenGeneratorKey{}))
	if err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: o.Control}
	reuse, err := quicreuse.NewConnManager(quicgo.StatelessResetKey(reset), quicgo.TokenGeneratorKey(token),
		quicreuse.OverrideListenUDP(func(network string, a *net.UDPAddr) (net.PacketConn, error) {
			return config.ListenPacket(context.Background(), network, a.String())
		}),
		quicreuse.ConnContext(func(ctx context.Context, c *quicgo.ClientInfo) (context.Context, error) {
			addr, err := quicreuse.ToQuicMultiaddr(c.RemoteAddr, quicgo.Version1)
			if err != nil {
				addr = nil // the resource manager then counts it without an address
			}
			scope, err := resources.OpenConnection(network.DirInbound, false, addr)
			if err != nil {
				return ctx, err
			}
			ctx = network.WithConnManagementScope(ctx, scope)
			context.AfterFunc(ctx, scope.Done)
			return ctx, nil
		}),
		quicreuse.VerifySourceAddress(resources.VerifySourceAddress),
	)
	if err != nil {
		return nil, err
	}
	t, err := quic.NewTransport(o.Key, reuse, nil, o.Gater, resources)
	if err != nil {
		reuse.Close()
		return nil, err
	}
	return reuse, sw.AddTransport(t)
}
