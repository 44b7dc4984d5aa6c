package rendezvous

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// endpoint is an address to listen on, and the address that clients are told in its place.
type endpoint struct {
	listen   netip.Addr // may be unspecified
	announce netip.Addr // invalid: none of this family
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}

// plan decides where to listen and what to announce.
//
// Without either: on each address of the interfaces that are up, without loopback and link-local ones unless there is nothing else. A
// socket for each, since what is sent from an unspecified one has the machine's first address, which a client that asked at another
// takes for a stranger's. Without addresses alone: everywhere. Without announced ones alone: the addresses themselves.
func plan(addresses, announce []netip.Addr) (endpoints []endpoint, announced []netip.Addr, err error) {
	addresses, announce = unmapped(addresses), unmapped(announce)
	for _, a := range announce {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			return nil, nil, fmt.Errorf("rendezvous: %s can't be announced: clients could not connect to it", a)
		}
	}
	if len(addresses)+len(announce) == 0 {
		if addresses, err = hostAddrs(); err != nil {
			return nil, nil, fmt.Errorf("rendezvous: %w", err)
		}
	}
	if len(addresses) == 0 {
		addresses = []netip.Addr{netip.IPv4Unspecified()}
		if haveIPv6() {
			addresses = append(addresses, netip.IPv6Unspecified())
		}
	}
	announced = announce
	if len(announced) == 0 {
		var own []netip.Addr
		for _, a := range addresses {
			if !a.IsUnspecified() {
				announced = append(announced, a)
				continue
			}
			if own == nil {
				if own, err = hostAddrs(); err != nil {
					return nil, nil, fmt.Errorf("rendezvous: %w", err)
				}
			}
			for _, o := range own {
				if o.Is4() == a.Is4() && !slices.Contains(announced, o) {
					announced = append(announced, o)
				}
			}
		}
	}
	if len(announced) == 0 {
		return nil, nil, errors.New("rendezvous: this machine has no address to announce: name one with --announce")
	}
	for i, a := range addresses {
		e := endpoint{listen: a}
		switch {
		case len(announce) == 0 && !a.IsUnspecified():
			e.announce = a
		case len(announce) == len(addresses) && announce[i].Is4() == a.Is4():
			e.announce = announce[i] // one to one, in the order of the options
		default:
			if j := slices.IndexFunc(announced, func(o netip.Addr) bool { return o.Is4() == a.Is4() }); j >= 0 {
				e.announce = announced[j]
			}
		}
		endpoints = append(endpoints, e)
	}
	return endpoints, announced, nil
}

func unmapped(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// haveIPv6 reports whether IPv6 sockets can be made here at all.
func haveIPv6() bool {
	l, err := net.Listen("tcp6", "[::]:0")
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// hostAddrs returns the addresses that clients may reach this machine at, or loopback if there are no others.
func hostAddrs() ([]netip.Addr, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var global, loopback []netip.Addr
	for _, i := range list {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // the interface went away
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue
			}
			switch ip := p.Addr().Unmap(); {
			case ip.IsLoopback():
				loopback = append(loopback, ip)
			case ip.IsGlobalUnicast():
				global = append(global, ip)
			}
		}
	}
	if len(global) == 0 {
		global = loopback
	}
	// IPv4 first: a client may have no IPv6, and the first line is the one that is pasted.
	slices.SortStableFunc(global, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return global, nil
}
