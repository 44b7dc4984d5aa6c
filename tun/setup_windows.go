package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/windows"
	wgtun "golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/windows/tunnel/winipcfg"
)

func open(name string, mtu int) (wgtun.Device, error) {
	if err := canCreate(); err != nil {
		return nil, err
	}
	if _, err := findLUID(name); err == nil {
		return nil, ErrExists
	}
	dev, err := wgtun.CreateTUN(name, mtu)
	switch {
	case errors.Is(err, windows.ERROR_ACCESS_DENIED):
		return nil, fmt.Errorf("%w: %w", ErrPermission, err)
	case errors.Is(err, windows.ERROR_MOD_NOT_FOUND), errors.Is(err, windows.ERROR_FILE_NOT_FOUND):
		return nil, fmt.Errorf("%w (wintun.dll must be beside the program): %w", ErrNoDriver, err)
	}
	return dev, err
}

// canCreate asks who we are: making an adapter takes seconds and is seen by the user.
func canCreate() error {
	if !windows.GetCurrentProcessToken().IsElevated() {
		return fmt.Errorf("%w: run as administrator", ErrPermission)
	}
	return nil
}

func findLUID(name string) (winipcfg.LUID, error) {
	adapters, err := winipcfg.GetAdaptersAddresses(windows.AF_UNSPEC, winipcfg.GAAFlagDefault)
	if err != nil {
		return 0, fmt.Errorf("list adapters: %w", err)
	}
	for _, a := range adapters {
		if a.FriendlyName() == name {
			return a.LUID, nil
		}
	}
	return 0, fmt.Errorf("adapter %s: %w", name, windows.ERROR_NOT_FOUND)
}

// families are those of the configuration's addresses and routes.
func (d *Configured) families() []winipcfg.AddressFamily {
	var families []winipcfg.AddressFamily
	for _, p := range append(slices.Clone(d.config.Addresses), d.config.Routes...) {
		if f := familyOf(p.Addr()); !slices.Contains(families, f) {
			families = append(families, f)
		}
	}
	return families
}

func familyOf(a netip.Addr) winipcfg.AddressFamily {
	if a.Is6() {
		return windows.AF_INET6
	}
	return windows.AF_INET
}

// nextHop is what Windows calls a route into an interface.
func nextHop(p netip.Prefix) netip.Addr {
	if p.Addr().Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// setUp sets addresses, MTU, metric, routes and DNS of the adapter. All of it ends with the adapter. For a default route
// to win, the adapter's metric is the lowest; the tunnel's own sockets must be bound to another interface.
func (d *Configured) setUp() error {
	luid, err := findLUID(d.name)
	if err != nil {
		return err
	}
	for _, p := range d.config.Addresses {
		if _, err := luid.IPAddress(p.Addr()); err == nil {
			continue
		}
		if err := d.journal.begin(step{Kind: stepAddress, Interface: d.name, Prefix: p}); err != nil {
			return err
		}
		if err := luid.AddIPAddress(p); err != nil {
			return fmt.Errorf("add address %s: %w", p, err)
		}
	}
	if err := d.addRoutes(d.config.Routes); err != nil {
		return err
	}
	for _, f := range d.families() {
		if err := d.setInterface(luid, f); err != nil {
			return err
		}
	}
	return d.setDNS(luid)
}

func (d *Configured) setInterface(luid winipcfg.LUID, f winipcfg.AddressFamily) error {
	row, err := luid.IPInterface(f)
	if err != nil {
		return fmt.Errorf("read interface: %w", err)
	}
	row.RouterDiscoveryBehavior = winipcfg.RouterDiscoveryDisabled
	row.DadTransmits = 0
	row.ManagedAddressConfigurationSupported = false
	row.OtherStatefulConfigurationSupported = false
	row.NLMTU = uint32(d.config.MTU)
	if d.config.MTU == 0 {
		row.NLMTU = DefaultMTU
	}
	if f == windows.AF_INET6 {
		row.NLMTU = max(row.NLMTU, minMTU6)
	}
	whole := func(p netip.Prefix) bool { return p.Bits() == 0 && familyOf(p.Addr()) == f }
	if d.config.Table == TableAuto && slices.ContainsFunc(d.config.Routes, whole) {
		row.UseAutomaticMetric = false
		row.Metric = 0
	}
	if err := row.Set(); err != nil {
		return fmt.Errorf("set MTU and metric: %w", err)
	}
	return nil
}

func (d *Configured) addRoutes(prefixes []netip.Prefix) error {
	switch d.config.Table {
	case TableOff:
		return nil
	case TableAuto:
	default:
		return fmt.Errorf("Table = %s: %w", d.config.Table, ErrUnsupported)
	}
	luid, err := findLUID(d.name)
	if err != nil {
		return err
	}
	for _, p := range prefixes {
		if _, err := luid.Route(p, nextHop(p)); err == nil {
			continue
		}
		t := step{Kind: stepRoute, Interface: d.name, For: p, Prefix: p}
		if err := d.journal.begin(t); err != nil {
			return err
		}
		if err := luid.AddRoute(p, nextHop(p), 0); err != nil {
			return errors.Join(fmt.Errorf("add route %s: %w", p, err), d.journal.forget(t))
		}
	}
	return nil
}

func (d *Configured) setDNS(luid winipcfg.LUID) error {
	if len(d.config.DNS) == 0 {
		return nil
	}
	if err := d.journal.begin(step{Kind: stepDNS, Interface: d.name, Method: "winipcfg", Key: d.name}); err != nil {
		return err
	}
	for _, f := range []winipcfg.AddressFamily{windows.AF_INET, windows.AF_INET6} {
		if err := luid.SetDNS(f, d.config.DNS, d.config.SearchDomains); err != nil {
			d.warn(fmt.Errorf("DNS is not set, names are resolved as before: %w", err))
		}
	}
	return nil
}

// undoer takes back steps. What is gone already counts as taken back; with the adapter, all is gone.
type undoer struct{}

func newUndoer(bool) *undoer { return &undoer{} }

func (u *undoer) close() {}

// undo takes one step back.
func (u *undoer) undo(t step) error {
	luid, err := findLUID(t.Interface)
	if errors.Is(err, windows.ERROR_NOT_FOUND) {
		return nil
	}
	if err != nil {
		return err
	}
	switch t.Kind {
	case stepAddress:
		err = luid.DeleteIPAddress(t.Prefix)
	case stepRoute:
		err = luid.DeleteRoute(t.Prefix, nextHop(t.Prefix))
	case stepDNS:
		err = errors.Join(luid.FlushDNS(windows.AF_INET), luid.FlushDNS(windows.AF_INET6))
	default:
		err = ErrUnsupported
	}
	if errors.Is(err, windows.ERROR_NOT_FOUND) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("take back %s %v of %s: %w", t.Kind, t.Prefix, t.Interface, err)
	}
	return nil
}
