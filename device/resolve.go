package device

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v5"
	wgdevice "golang.zx2c4.com/wireguard/device"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/proto/key"
)

const (
	// resolveEvery is how often the name of a peer's endpoint is looked up again while the peer does not answer: its address may be
	// a dynamic one.
	resolveEvery = time.Minute

	// answeredWithin is how old the last handshake of a peer that answers may be: WireGuard makes a new one every 2 minutes.
	answeredWithin = 3 * time.Minute
)

// resolveEndpoints looks up the endpoints of the file that are names, and goes on doing so for peers that do not answer. WireGuard itself
// takes only numbers.
func (d *Device) resolveEndpoints() {
	var named []config.Peer
	for _, p := range d.opts.Config.Peers {
		if _, err := netip.ParseAddrPort(p.Endpoint); p.Endpoint != "" && err != nil {
			named = append(named, p)
		}
	}
	for _, p := range named {
		d.tasks.Go(func() { d.resolveEndpoint(p.PublicKey, p.Endpoint) })
	}
}

func (d *Device) resolveEndpoint(pk key.Public, endpoint string) {
	retry := backoff.NewExponentialBackOff()
	retry.MaxInterval = resolveEvery
	var last netip.AddrPort
	for {
		wait := resolveEvery
		if time.Since(d.lastHandshake(pk)) > answeredWithin {
			addr, err := resolve(d.ctx, endpoint)
			switch {
			case err != nil:
				d.log.Warn("endpoint not found, trying again", "peer", d.displayName(pk), "endpoint", endpoint, "err", err)
				wait = retry.NextBackOff()
			case addr != last:
				last = addr
				d.setEndpoint(pk, addr)
			}
		}
		select {
		case <-d.ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// setEndpoint gives the peer an endpoint as "wg set" would.
func (d *Device) setEndpoint(pk key.Public, addr netip.AddrPort) {
	if d.lookup(pk) != nil {
		d.setStatic(pk, addr)
		return
	}
	wp := d.wg.LookupPeer(wgdevice.NoisePublicKey(pk))
	if ep, err := d.bind.ParseEndpoint(addr.String()); err == nil && wp != nil {
		wp.SetEndpointFromPacket(ep)
	}
}

func resolve(ctx context.Context, endpoint string) (netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(endpoint)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port %q: %w", service, err)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(addrs[0].Unmap(), uint16(port)), nil
}
