package device

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	wgdevice "golang.zx2c4.com/wireguard/device"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/proto/key"
)

const (
	// resolveFirst bounds the lookups before the interface is up: it comes up without a name server too.
	resolveFirst = 5 * time.Second

	// resolveEvery is how often the name of a peer's endpoint is looked up again while the peer does not answer: its address may be
	// a dynamic one.
	resolveEvery = time.Minute

	// answeredWithin is how old the last handshake of a peer that answers may be: WireGuard makes a new one every 2 minutes.
	answeredWithin = 3 * time.Minute
)

// namedEndpoint is an endpoint of the file that has a name for its host. WireGuard itself takes only numbers.
type namedEndpoint struct {
	peer  key.Public
	name  string         // host:port
	found netip.AddrPort // what it was last; owned by ResolveEndpoints, then by follow

	ctx    context.Context // done once the file has another one, and then the endpoint is not set any more
	cancel context.CancelFunc
}

func namedEndpoints(ctx context.Context, c *config.Config) map[key.Public]*namedEndpoint {
	named := make(map[key.Public]*namedEndpoint)
	for _, p := range c.Peers {
		if _, err := netip.ParseAddrPort(p.Endpoint); p.Endpoint != "" && err != nil {
			n := &namedEndpoint{peer: p.PublicKey, name: p.Endpoint}
			n.ctx, n.cancel = context.WithCancel(ctx)
			named[p.PublicKey] = n
		}
	}
	return named
}

// ResolveEndpoints looks up the endpoints of the file that are names, for at most 5 s. It is to be called before [Device.Up] and before
// routes lead into the tunnel, which would swallow the questions to a name server as long as the tunnel has no endpoint. Up goes on with
// what is not found, so that calling it is not necessary where there are no such routes.
func (d *Device) ResolveEndpoints(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, resolveFirst)
	defer cancel()
	d.uapiMu.Lock()
	named := slices.Collect(maps.Values(d.named))
	d.uapiMu.Unlock()
	var lookups sync.WaitGroup
	for _, n := range named {
		lookups.Go(func() { d.resolve(ctx, n) })
	}
	lookups.Wait()
}

func (d *Device) startFollow(n *namedEndpoint) {
	d.tasks.Go(func() { d.follow(n) })
}

// follow looks the name up until it is found, and again as long as the peer does not answer.
func (d *Device) follow(n *namedEndpoint) {
	retry := backoff.NewExponentialBackOff()
	retry.MaxInterval = resolveEvery
	wait := time.Duration(0)
	first := !n.found.IsValid()
	if !first {
		wait = resolveEvery
	}
	for ; ; first = false {
		select {
		case <-n.ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = resolveEvery
		if !first && time.Since(d.lastHandshake(n.peer)) <= answeredWithin {
			continue
		}
		if d.resolve(n.ctx, n) {
			retry.Reset()
		} else {
			wait = retry.NextBackOff()
		}
	}
}

// resolve looks the name up once, and gives the peer the endpoint as "wg set" would if it is another one than before. It reports whether the peer
// has it.
func (d *Device) resolve(ctx context.Context, n *namedEndpoint) bool {
	if d.wg.LookupPeer(wgdevice.NoisePublicKey(n.peer)) == nil {
		return false // removed, but it may come back
	}
	addr, err := d.lookUpName(ctx, n.name)
	if n.ctx.Err() != nil {
		return false
	}
	if err != nil {
		d.log.Warn("endpoint not found, trying again", "name", d.displayName(n.peer), "endpoint", n.name, "err", err)
		return false
	}
	if addr == n.found {
		return true
	}
	d.uapiMu.Lock()
	defer d.uapiMu.Unlock()
	if n.ctx.Err() != nil { // the file has another one by now
		return false
	}
	if err := d.applySet(fmt.Appendf(nil, "public_key=%s\nupdate_only=true\nendpoint=%s\n", n.peer.Hex(), addr)); err != nil {
		d.log.Warn("endpoint not set, trying again", "name", d.displayName(n.peer), "endpoint", n.name, "err", err)
		return false
	}
	n.found = addr
	return true
}

func (d *Device) lookUpName(ctx context.Context, name string) (netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(name)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port %q: %w", service, err)
	}
	resolver := d.opts.Resolver
	if resolver == nil {
		resolver = &net.Resolver{Dial: d.net.DialContext}
	}
	addrs, err := resolver.LookupNetIP(ctx, "ip", host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("the name has no address")
	}
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(addrs[0].Unmap(), uint16(port)), nil
}
