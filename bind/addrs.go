package bind

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// maxListenAddrs limits the host candidates: a peer accepts 30 candidates in all, and every one costs each agent two
	// goroutines. Hosts with more addresses are those of containers, whose addresses no peer can reach anyway.
	maxListenAddrs = 16
	// addrsTTL is how long the list is kept: pion asks for it once per STUN server and family.
	addrsTTL = time.Second
)

// addrCache has the list of local addresses.
type addrCache struct {
	mu    sync.Mutex // guards all following; held while the system is asked, so that it is asked once
	addrs []netip.Addr
	at    time.Time
}

func (c *addrCache) clear() {
	c.mu.Lock()
	c.at = time.Time{}
	c.mu.Unlock()
}

// GetListenAddresses implements [ice.UDPMux]: the host candidates, i.e. the concrete addresses of this host with the port of the
// shared sockets, without those that [Options] exclude. It is empty while the bind is closed.
func (m *Mux) GetListenAddresses() []net.Addr {
	s := m.bind.socks.Load()
	if s == nil {
		return nil
	}
	var out []net.Addr
	for _, a := range m.localAddrs() {
		if s.forAddr(a) != nil {
			out = append(out, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, s.port)))
		}
	}
	return out
}

func (m *Mux) localAddrs() []netip.Addr {
	c := &m.addrs
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.at) > addrsTTL {
		c.addrs, c.at = m.opts.candidateAddrs(hostAddrs()), now
	}
	return c.addrs
}

// hostAddr is an address of this host.
type hostAddr struct {
	iface string
	addr  netip.Addr
}

// hostAddrs lists the addresses of all interfaces that are up. An interface that vanishes meanwhile is left out.
func hostAddrs() []hostAddr {
	var out []hostAddr
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil // without a list there are no host candidates; relayed ones still work
	}
	for _, i := range ifaces {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok {
					out = append(out, hostAddr{iface: i.Name, addr: ip.Unmap()})
				}
			}
		}
	}
	return out
}

// candidateAddrs chooses those that become host candidates (RFC 8445, section 5.1.1.1). Loopback addresses are for a host that has
// nothing else, and for tests.
func (o *Options) candidateAddrs(all []hostAddr) []netip.Addr {
	var addrs, loopback []netip.Addr
	for _, h := range all {
		a := h.addr
		switch {
		case a.IsUnspecified(), a.IsMulticast(), a.Is6() && a.IsLinkLocalUnicast(), deprecated(a):
			continue
		case o.Exclude != nil && o.Exclude(a), o.ExcludeInterface != nil && o.ExcludeInterface(h.iface):
			continue
		}
		list := &addrs
		if a.IsLoopback() && !o.IncludeLoopback {
			list = &loopback
		}
		if !slices.Contains(*list, a) {
			*list = append(*list, a)
		}
	}
	if len(addrs) == 0 {
		addrs = loopback
	}
	return addrs[:min(len(addrs), maxListenAddrs)]
}

var siteLocal = netip.MustParsePrefix("fec0::/10")

// deprecated reports the kinds of IPv6 addresses that RFC 8445 forbids: site-local and IPv4-compatible ones.
func deprecated(a netip.Addr) bool {
	if !a.Is6() {
		return false
	}
	b := a.As16()
	compatible := [12]byte(b[:12]) == [12]byte{} && !a.IsLoopback()
	return siteLocal.Contains(a) || compatible
}
