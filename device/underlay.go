package device

import (
	"context"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/pion/transport/v2"
	"github.com/pion/transport/v2/stdnet"

	"github.com/wice-go/wice-go/bind"
	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/signal/session"
)

const (
	// networkPoll is how often the host's addresses are compared with the last ones. A poll costs two system calls, works on every
	// system, and is well below the time in which a dead path is noticed.
	networkPoll = 2 * time.Second

	// dialTimeout bounds a connection over TCP to a TURN or name server.
	dialTimeout = 5 * time.Second
)

// underlay makes the sockets beside the bind's own, those to TURN and name servers: with the interface's mark on
// them, so that a full tunnel does not swallow its own packets.
type underlay struct {
	stdnet.Net
	bind    *bind.Bind
	exclude func(iface string) bool
}

var _ transport.Net = (*underlay)(nil)

// Interfaces implements [transport.Net], with the interfaces of now that are not WireGuard's: their addresses become candidates over TCP.
func (u *underlay) Interfaces() ([]*transport.Interface, error) {
	var now stdnet.Net
	if err := now.UpdateInterfaces(); err != nil {
		return nil, err
	}
	all, err := now.Interfaces()
	return slices.DeleteFunc(all, func(i *transport.Interface) bool { return u.exclude(i.Name) }), err
}

// ListenPacket implements [transport.Net]: it opens the socket of a TURN client.
func (u *underlay) ListenPacket(network, address string) (net.PacketConn, error) {
	s, err := u.bind.ListenTURN(network, address)
	if err != nil {
		return nil, err // not an interface with a nil pointer in it
	}
	return s, nil
}

// DialTCP implements [transport.Net].
func (u *underlay) DialTCP(network string, laddr, raddr *net.TCPAddr) (transport.TCPConn, error) {
	d := net.Dialer{Control: u.bind.ControlSocket, Timeout: dialTimeout}
	if laddr != nil {
		d.LocalAddr = laddr
	}
	return dialAs[*net.TCPConn](d, network, raddr.String())
}

// DialUDP implements [transport.Net].
func (u *underlay) DialUDP(network string, laddr, raddr *net.UDPAddr) (transport.UDPConn, error) {
	d := net.Dialer{Control: u.bind.ControlSocket}
	if laddr != nil {
		d.LocalAddr = laddr
	}
	return dialAs[*net.UDPConn](d, network, raddr.String())
}

func dialAs[T net.Conn](d net.Dialer, network, address string) (conn T, err error) {
	c, err := d.Dial(network, address)
	if err != nil {
		return conn, err
	}
	conn, ok := c.(T)
	if !ok {
		c.Close()
		return conn, fmt.Errorf("dial %s: got %T, not %T", address, c, conn)
	}
	return conn, nil
}

// Dial implements [transport.Net].
func (u *underlay) Dial(network, address string) (net.Conn, error) {
	return u.DialContext(context.Background(), network, address)
}

// DialContext is for the questions to name servers.
func (u *underlay) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Control: u.bind.ControlSocket, Timeout: dialTimeout}
	return d.DialContext(ctx, network, address)
}

// refreshOverlay notes the addresses inside the tunnel, which are no candidates: those of the file, and those that the interface has by
// now (wg-quick and administrators add them by themselves).
func (d *Device) refreshOverlay() {
	own := make(map[netip.Addr]bool)
	for _, p := range d.Config().Interface.Addresses {
		own[p.Addr().Unmap()] = true
	}
	if d.opts.TunKind == "kernel" {
		if ifc, err := net.InterfaceByName(d.opts.Name); err == nil {
			addrs, _ := ifc.Addrs()
			for _, a := range addrs {
				if p, err := netip.ParsePrefix(a.String()); err == nil {
					own[p.Addr().Unmap()] = true
				}
			}
		}
	}
	d.overlay.Store(&own)
}

func (d *Device) isOverlay(a netip.Addr) bool { return (*d.overlay.Load())[a.Unmap().WithZone("")] }

// watchNetwork starts new sessions when the addresses of the host have changed.
func (d *Device) watchNetwork() {
	tick := time.NewTicker(networkPoll)
	defer tick.Stop()
	seed := maphash.MakeSeed()
	last := d.networkHash(seed)
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-tick.C:
			last = d.pollNetwork(seed, last)
		}
	}
}

// pollNetwork compares the host's addresses with those of the last poll, and returns what the next one compares with. It doesn't while the bind is
// closed: what begins when it is open again begins with the addresses of then.
func (d *Device) pollNetwork(seed maphash.Seed, last uint64) uint64 {
	d.refreshOverlay()
	now := d.networkHash(seed)
	if now == 0 {
		return last
	}
	if last != 0 && now != last {
		d.networkChanged()
	}
	return now
}

// networkHash is of the host's addresses, also where it has none; 0 if the bind is closed. It has no port in it: see followPort.
func (d *Device) networkHash(seed maphash.Seed) uint64 {
	if d.bind.Port() == 0 {
		return 0
	}
	sum := uint64(1)
	for _, a := range d.bind.Mux().GetListenAddresses() {
		sum += maphash.String(seed, a.(*net.UDPAddr).IP.String()) // a sum: the order does not matter
	}
	return sum
}

// followPort starts new sessions when the port of the bind has changed: before there are those of new peers, which know it already. The
// caller holds uapiMu.
func (d *Device) followPort() {
	now, last := d.bind.Port(), d.port
	if now == 0 || now == last {
		return
	}
	d.port = now
	if last != 0 {
		d.networkChanged()
	}
}

// followTCP listens for ICE over TCP where that is wanted, on the port of the bind. The caller holds uapiMu.
func (d *Device) followTCP(up bool) {
	if up && len(d.opts.Backends) > 0 && slices.ContainsFunc(d.networkTypes, proto.NetworkType.IsTCP) {
		d.tcp.open(d.ctx, d.bind.Port(), d.bind.ControlSocket, d.log)
	} else {
		d.tcp.Close()
	}
}

func (d *Device) networkChanged() {
	d.log.Info("network changed: negotiating again")
	d.bind.ClearSources()
	d.bind.Mux().Expire(0)
	d.eachPeer(func(p *peer) {
		if p.session.Status().State != session.Idle {
			p.session.NetworkChanged()
		}
	})
}
