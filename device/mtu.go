package device

import (
	"fmt"

	wgdevice "golang.zx2c4.com/wireguard/device"

	"github.com/wice-go/wice-go/bind"
	"github.com/wice-go/wice-go/signal/session"
)

// Sizes in bytes.
const (
	transportOverhead = wgdevice.MessageTransportSize // of WireGuard's data messages
	channelData       = 4                             // of TURN, RFC 8656, section 12.4
	dtlsRecord        = 13 + 8 + 16                   // header, nonce and tag of AES-GCM, RFC 5288
	ethernetMTU       = 1500
	ipv4Header        = 20
	ipv6Header        = 40
	udpHeader         = 8
)

// pathMTU is what is known of the MTU of a peer's path. The zero value is nothing.
type pathMTU struct {
	inner int // bytes of a packet inside the tunnel
	path  int // bytes of a packet outside; 0: inner is all that the interface wants
}

// innerLimit returns the size of the largest packet that WireGuard makes a datagram of at most size bytes from: it pads packets to a
// multiple of 16, but not beyond the MTU. It is the MTU itself if that fits.
func innerLimit(size, mtu int) int {
	if size >= mtu+transportOverhead {
		return mtu
	}
	return max(size-transportOverhead, 0) &^ (wgdevice.PaddingMultiple - 1)
}

// discoverLocked begins to find the MTU of the path that the peer's session has selected. What is known of the last path counts until
// then: most paths that replace one are narrow at the same place. Through a relay, what Ethernet leaves room for does. The caller holds p.mu.
func (d *Device) discoverLocked(p *peer, path *session.Path) {
	if path == nil {
		d.setMTULocked(p, pathMTU{})
		return
	}
	mtu := d.interfaceMTU()
	var unknown pathMTU
	if !path.Direct {
		unknown = pathMTU{inner: mtu}
		if bound := relayBound(path); bound > 0 {
			unknown = limitedMTU(bound, ethernetMTU, mtu)
		}
		d.setMTULocked(p, unknown)
	}
	of := p.path
	p.endpoint.Discover(bind.Discovery{
		Credentials: bind.Credentials(path.Checks),
		Full:        mtu + transportOverhead,
		Found:       func(size, outer int) { d.onMTU(p, of, size, outer, unknown) },
	})
}

// relayBound returns the size of the largest datagram that our TURN server is sent in one piece over Ethernet, whose narrowest place
// mostly is on this side; 0 where a stream carries the path.
func relayBound(path *session.Path) int {
	if path == nil || path.RelayProtocol != "udp" && path.RelayProtocol != "dtls" {
		return 0
	}
	bound := ethernetMTU - ipv4Header - udpHeader - channelData
	if path.RelayIPv6 {
		bound -= ipv6Header - ipv4Header
	}
	if path.RelayProtocol == "dtls" {
		bound -= dtlsRecord
	}
	return bound
}

func limitedMTU(size, outer, mtu int) pathMTU {
	inner := innerLimit(size, mtu)
	if inner == mtu {
		outer = 0
	}
	return pathMTU{inner: inner, path: outer}
}

// onMTU takes what was found out about a path: size is that of its largest datagrams, 0 if that is not known, which leaves what was assumed.
func (d *Device) onMTU(p *peer, of *bind.Path, size, outer int, unknown pathMTU) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.path != of:
	case size == 0:
		d.setMTULocked(p, unknown)
	default:
		d.setMTULocked(p, limitedMTU(size, outer, d.interfaceMTU()))
	}
}

// setMTULocked clamps the packets to the peer, or does so no more.
func (d *Device) setMTULocked(p *peer, m pathMTU) {
	old := p.mtu
	p.mtu = m
	if m.path > 0 {
		d.clamp.SetLimit(&p.clamp, m.inner)
	} else {
		d.clamp.SetLimit(&p.clamp, 0)
	}
	switch name := d.displayName(p.key); {
	case m.path > 0 && m != old:
		d.log.Info(fmt.Sprintf("path MTU to %s is %d: packets over %d B are clamped", name, m.path, m.inner), "peer", p.key.Short())
	case m.path == 0 && old.path > 0:
		d.log.Info(fmt.Sprintf("packets to %s are clamped no more", name), "peer", p.key.Short())
	}
}

// mtuOf returns what is known, for status.
func (d *Device) mtuOf(p *peer) pathMTU {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.mtu
	if mtu := d.interfaceMTU(); m.inner >= mtu { // lowered since
		m = pathMTU{inner: mtu}
	}
	return m
}

// forgetMTU drops what is known of a peer that is gone.
func (d *Device) forgetMTU(p *peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.path, p.mtu = nil, pathMTU{}
	d.clamp.SetLimit(&p.clamp, 0)
	d.table.edit(p.key, func(m *member) { m.clamp.CompareAndSwap(&p.clamp, nil) })
}

// interfaceMTU returns the MTU of the interface now, which administrators may change.
func (d *Device) interfaceMTU() int {
	mtu, err := d.opts.Tun.MTU()
	if err != nil || mtu <= 0 {
		return wgdevice.DefaultMTU // as wireguard-go takes it
	}
	return mtu
}
