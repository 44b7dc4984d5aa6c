package libp2p

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	circuit "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	circuitpb "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/pb"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/wice-go/wice-go/proto"
)

const (
	// connectTimeout and reserveTimeout bound connecting to a bootstrap and reserving there.
	connectTimeout = 10 * time.Second
	reserveTimeout = 5 * time.Second

	// A bootstrap that went away is tried again after firstRetry, growing by a quarter each time: so the wait is never much more
	// than a quarter of the outage, and a server that was restarted is back in use within a second or two.
	firstRetry  = 200 * time.Millisecond
	retryGrowth = 1.25
	lastRetry   = 30 * time.Second

	// minUptime is how long a connection must hold before the back-off starts over: a server that refuses us right after each
	// connection must not be called five times a second.
	minUptime = 5 * time.Second

	// pingInterval and pingTimeout find a server that vanished without a word. One small packet each way.
	pingInterval = 15 * time.Second
	pingTimeout  = 5 * time.Second

	// minRenew bounds how often a reservation is renewed or credentials are fetched, whatever lifetime the server names.
	minRenew = 10 * time.Second
)

// relay keeps the connection, the reservation and the ICE servers of one bootstrap. Its goroutine is run.
type relay struct {
	// Constant after construction.
	b    *Backend
	info peer.AddrInfo
	name string // host:port for people

	lost  chan struct{} // a connection went away
	check chan struct{} // there is reason to doubt that the connection works

	untold atomic.Bool // there was a connection of which the peers were not told

	// mu guards all following.
	mu        sync.Mutex
	connected bool
	trouble   string
	servers   []proto.ICEServer
	expires   time.Time
}

func newRelay(b *Backend, info peer.AddrInfo) *relay {
	return &relay{
		b: b, info: info, name: addrName(info.Addrs[0]),
		lost: make(chan struct{}, 1), check: make(chan struct{}, 1),
		trouble: "connecting",
	}
}

func addrName(a ma.Multiaddr) string {
	if n, err := manet.ToNetAddr(a); err == nil {
		return n.String()
	}
	return a.String()
}

// wake sends without waiting: one signal that nobody has taken yet is enough.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run connects, holds and reconnects until the backend is closed.
func (r *relay) run() {
	ctx := r.b.ctx
	r.b.host.Peerstore().AddAddrs(r.info.ID, r.info.Addrs, peerstore.PermanentAddrTTL)
	retry := &backoff.ExponentialBackOff{
		InitialInterval: firstRetry, Multiplier: retryGrowth, MaxInterval: lastRetry, RandomizationFactor: 0.2,
	}
	retry.Reset()
	for ctx.Err() == nil {
		renew, err := r.connect(ctx)
		if err == nil {
			began := time.Now()
			r.up()
			err = r.hold(ctx, renew)
			r.down(err)
			if time.Since(began) >= minUptime {
				retry.Reset()
			}
		} else {
			r.down(err)
			if r.b.dht != nil && r.linked() && r.untold.Swap(false) {
				r.tell() // it gives no reservation, but may know where they are
			}
		}
		timer := time.NewTimer(retry.NextBackOff())
		select {
		case <-timer.C:
		case <-r.check: // the network changed, say: the back-off starts over
			retry.Reset()
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// connect dials the bootstrap and makes a reservation. It returns when to renew that.
func (r *relay) connect(ctx context.Context) (renew time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	r.b.host.ForgetFailures(r.info.ID)
	if err := r.b.host.Connect(ctx, r.info); err != nil {
		return 0, dialReason(err)
	}
	return r.reserve(ctx)
}

// reserve closes the connection when the answer takes too long: libp2p itself would wait for a minute.
func (r *relay) reserve(ctx context.Context) (renew time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, reserveTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { r.b.host.Network().ClosePeer(r.info.ID) })()
	res, err := circuit.Reserve(ctx, r.b.host, peer.AddrInfo{ID: r.info.ID})
	if err != nil {
		var refused circuit.ReservationError
		if errors.As(err, &refused) && refused.Status != circuitpb.Status_CONNECTION_FAILED {
			return 0, fmt.Errorf("no relay reservation: %s", refused.Status)
		}
		if errors.As(err, &refused) && refused.Unwrap() != nil {
			err = refused.Unwrap()
		}
		return 0, fmt.Errorf("no relay reservation: %w", err)
	}
	return max(time.Until(res.Expiration)/2, minRenew), nil
}

// hold watches over a connection that stands, and returns why it does not any more.
func (r *relay) hold(ctx context.Context, renew time.Duration) error {
	reservation := time.NewTimer(renew)
	defer reservation.Stop()
	pings := time.NewTicker(pingInterval)
	defer pings.Stop()
	refresh := time.NewTimer(0)
	defer refresh.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ErrClosed
		case <-r.lost:
			if r.b.host.Network().Connectedness(r.info.ID) == network.NotConnected {
				return errors.New("the connection was lost")
			}
			reservation.Reset(0) // another connection stands, which a DHT query has made, say: the reservation went with the first
		case <-reservation.C:
			var next time.Duration
			if next, err = r.reserve(ctx); err == nil {
				reservation.Reset(next)
			}
		case <-pings.C:
			err = r.ping(ctx)
		case <-r.check:
			err = r.ping(ctx)
		case <-refresh.C:
			if next := r.fetch(ctx); next > 0 {
				refresh.Reset(next)
			}
		}
		if err != nil {
			r.b.host.Network().ClosePeer(r.info.ID)
			return err
		}
	}
}

func (r *relay) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	s, err := r.b.host.NewStream(ctx, r.info.ID, ping.ID)
	if err != nil {
		return fmt.Errorf("it does not answer: %w", err)
	}
	defer s.Reset()
	s.SetDeadline(time.Now().Add(pingTimeout))
	buf := make([]byte, ping.PingSize)
	rand.Read(buf)
	if _, err := s.Write(buf); err != nil {
		return fmt.Errorf("it does not answer: %w", err)
	}
	if _, err := io.ReadFull(s, buf); err != nil {
		return fmt.Errorf("it does not answer: %w", err)
	}
	return nil
}

func (r *relay) up() {
	r.mu.Lock()
	r.connected, r.trouble = true, ""
	r.mu.Unlock()
	r.b.log.Info("bootstrap connected", "bootstrap", r.name)
	r.untold.Store(false)
	r.tell()
	wake(r.b.hello)
}

// tell says that all peers may be there.
func (r *relay) tell() {
	for k := range r.b.gater.all() {
		r.b.env.Sink.PeerAvailable(k)
	}
}

// linked reports whether there is a connection, be it one without a reservation.
func (r *relay) linked() bool {
	return r.b.host.Network().Connectedness(r.info.ID) == network.Connected
}

func (r *relay) down(err error) {
	r.mu.Lock()
	was, before := r.connected, r.trouble
	r.connected, r.trouble = false, err.Error()
	r.mu.Unlock()
	if (was || before != err.Error()) && r.b.ctx.Err() == nil {
		r.b.log.Warn("bootstrap not connected", "bootstrap", r.name, "error", err)
	}
}

func (r *relay) status() (connected bool, trouble string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connected, r.trouble
}

// circuits returns the beginning of the addresses by which peers are reached through this bootstrap, as long as it is connected. They
// have the server's address, because the resource manager counts circuits by it.
func (r *relay) circuits() []ma.Multiaddr {
	if connected, _ := r.status(); !connected {
		return nil
	}
	conns := r.b.host.Network().ConnsToPeer(r.info.ID)
	addrs := r.info.Addrs
	if len(conns) > 0 {
		addrs = []ma.Multiaddr{conns[0].RemoteMultiaddr()}
	}
	suffix := ma.StringCast("/p2p/" + r.info.ID.String() + "/p2p-circuit")
	out := make([]ma.Multiaddr, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, a.Encapsulate(suffix))
	}
	return out
}

// dialReason shortens a dial error to the distinct causes.
func dialReason(err error) error {
	var d *swarm.DialError
	if !errors.As(err, &d) || len(d.DialErrors) == 0 {
		return err
	}
	var causes []error
	var seen []string
	for _, t := range d.DialErrors {
		cause := t.Cause
		var op *net.OpError
		if errors.As(cause, &op) {
			cause = op.Err // without the addresses, which the caller names
		}
		var sys *os.SyscallError
		if errors.As(cause, &sys) {
			cause = sys.Err
		}
		var other sec.ErrPeerIDMismatch
		if errors.As(cause, &other) {
			cause = fmt.Errorf("the server there has another identity (%s): take the line that it prints now", other.Actual)
		}
		if text := cause.Error(); !slices.Contains(seen, text) {
			seen, causes = append(seen, text), append(causes, cause)
		}
	}
	if len(causes) == 1 {
		return causes[0]
	}
	return errors.New(strconv.Itoa(len(causes)) + " failures: " + errors.Join(causes...).Error())
}
