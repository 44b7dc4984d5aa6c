package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"

	wgtun "golang.zx2c4.com/wireguard/tun"

	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/tun"
	"github.com/wice-go/wice-go/tun/share"
)

// share lets namespaces have a part in the tunnel, beside the kernel's stack or the userspace one.
func (r *running) share(dev wgtun.Device, kernel bool) wgtun.Device {
	inner, ok := dev.(share.Inner)
	if !ok {
		return dev
	}
	var claims share.Claims
	if !kernel {
		claims = func(protocol uint8, local, remote netip.AddrPort) bool {
			return r.stack.Claims(protocol, local, remote)
		}
	}
	r.inner = share.New(inner, claims)
	return r.inner
}

// Network implements [control.Daemon]. The client counts from here on: it takes its time until it has made its namespace, in which the command may end
// that the daemon was started for.
func (d *daemon) Network(ctx context.Context) (control.Network, error) {
	if d.inner == nil {
		return control.Network{}, errors.ErrUnsupported
	}
	context.AfterFunc(ctx, d.guests.enter())
	status, err := d.dev.Status(ctx)
	if err != nil {
		return control.Network{}, err
	}
	mtu, err := d.inner.MTU()
	if err != nil {
		return control.Network{}, err
	}
	i := &d.config().Interface
	n := control.Network{Interface: d.name, MTU: mtu, Addresses: d.addresses(), DNS: i.DNS, SearchDomains: i.SearchDomains, Hosts: make(map[string][]netip.Addr)}
	for _, p := range status.Peers {
		n.Routes = append(n.Routes, p.AllowedIPs...)
		for _, a := range p.AllowedIPs {
			if p.Name != "" && a.IsSingleIP() {
				n.Hosts[p.Name] = append(n.Hosts[p.Name], a.Addr())
			}
		}
	}
	return n, nil
}

// addresses returns those of the file, or where others set the interface up those that it has.
func (d *daemon) addresses() []netip.Prefix {
	if !d.dropIn {
		return d.config().Interface.Addresses
	}
	ifc, err := net.InterfaceByName(d.name)
	if err != nil {
		return nil // it is in another namespace
	}
	var own []netip.Prefix
	addrs, _ := ifc.Addrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			own = append(own, p)
		}
	}
	return own
}

// Attach implements [control.Daemon].
func (d *daemon) Attach(file *os.File) (control.Attached, error) {
	mtu, err := d.inner.MTU()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	dev, err := tun.FromFile(file, mtu)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	port, err := d.inner.Attach(dev)
	if err != nil {
		return nil, err
	}
	d.log.Info("a namespace takes part in the tunnel", "interface", d.name)
	return port, nil
}
