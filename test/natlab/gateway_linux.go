package natlab

import (
	"fmt"
	"net/netip"
	"sync"
)

// Gateway is a site's router between its interfaces lan and wan.
type Gateway struct {
	// Outer is the provider's NAT in front of this one; nil if there is none.
	Outer *Gateway

	// Constant once the lab is made.
	lab      *Lab
	node     *node
	forwards bool
	has4     bool
	up       *node  // what wan is connected to; nil without an uplink
	port     string // up's end of the cable
	segment  netip.Prefix

	mu        sync.Mutex // guards the following
	rules     rules
	loss      int
	blockICMP bool
	rebinds   int
}

// WAN4 returns the IPv4 address outside: where the world sees the site's hosts, unless there is an outer NAT.
func (g *Gateway) WAN4() netip.Addr {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rules.wan
}

// load installs the first rules. The router's node has fixed ones.
func (g *Gateway) load() error {
	if g.up == nil {
		if !g.forwards {
			return nil
		}
		return g.node.run(routerRules+impairments(0, false), "nft", "-f", "-")
	}
	return g.node.run(g.rules.script()+impairments(g.loss, false), "nft", "-f", "-")
}

// must runs a change of the network, and ends the test when it fails.
func (g *Gateway) must(what string, err error) {
	g.lab.t.Helper()
	if err != nil {
		g.lab.t.Fatalf("natlab: %s at %s: %v", what, g.node.name, err)
	}
}

// reload installs the rules and forgets every mapping.
func (g *Gateway) reloadLocked() error {
	if err := g.node.run(g.rules.script(), "nft", "-f", "-"); err != nil {
		return err
	}
	return g.node.run("", "conntrack", "-F")
}

// SetNAT changes the kind of NAT and forgets every mapping. To and from None
// is not possible: the LAN's addresses go with it.
func (g *Gateway) SetNAT(kind NAT) {
	g.lab.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if (kind == None) != (g.rules.nat == None) {
		g.must("change NAT", fmt.Errorf("%v to %v: the LAN's addresses don't fit", g.rules.nat, kind))
	}
	g.rules.nat = kind
	g.must("change NAT", g.reloadLocked())
}

// Forget drops every mapping, as a gateway that is restarted does.
func (g *Gateway) Forget() {
	g.lab.t.Helper()
	g.must("forget mappings", g.node.run("", "conntrack", "-F"))
}

// Rebind gives the gateway another IPv4 address outside and forgets every
// mapping, as providers do at night. TCP connections through it end.
func (g *Gateway) Rebind() {
	g.lab.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rebinds++
	old := g.rules.wan
	g.rules.wan = hostIn(g.segment, 2+g.rebinds).Addr()
	g.must("rebind address", g.node.do(func() error {
		return ipBatch([]string{
			fmt.Sprintf("addr del %s/%d dev wan", old, g.segment.Bits()),
			fmt.Sprintf("addr add %s/%d dev wan", g.rules.wan, g.segment.Bits()),
			fmt.Sprintf("route add default via %s", hostIn(g.segment, 1).Addr()),
		})
	}))
	g.must("rebind address", g.reloadLocked())
}

// RebindPorts gives every inner UDP address and port another port outside
// and forgets every mapping: what happens when a mapping has expired.
func (g *Gateway) RebindPorts() {
	g.lab.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rebinds++
	g.rules.shift = uint32(g.rebinds) * 0x9e3779b1 // any other seed
	g.must("rebind ports", g.reloadLocked())
}

// SetLoss drops n of 10,000 packets that the gateway forwards, each way.
func (g *Gateway) SetLoss(n int) {
	g.lab.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.loss = n
	g.must("set loss", g.node.run(impairments(n, g.blockICMP), "nft", "-f", "-"))
}

// SetMTU sets the MTU in bytes of the cable between the gateway and the
// internet, at both ends. With blockICMP nobody hears that a packet was too
// big: a black hole. Below 1280 IPv6 is lost, as the kernel wants it.
func (g *Gateway) SetMTU(mtu int, blockICMP bool) {
	g.lab.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.blockICMP = blockICMP
	g.must("set MTU", g.node.run(impairments(g.loss, blockICMP), "nft", "-f", "-"))
	g.must("set MTU", g.up.run(impairments(g.upstreamLoss(), blockICMP), "nft", "-f", "-"))
	g.must("set MTU", g.node.do(func() error { return ipBatch([]string{fmt.Sprintf("link set wan mtu %d", mtu)}) }))
	g.must("set MTU", g.up.do(func() error { return ipBatch([]string{fmt.Sprintf("link set %s mtu %d", g.port, mtu)}) }))
}

// upstreamLoss is the loss that the node above must keep when its impairments are written anew.
func (g *Gateway) upstreamLoss() int {
	if g.Outer == nil {
		return 0
	}
	g.Outer.mu.Lock()
	defer g.Outer.mu.Unlock()
	return g.Outer.loss
}

// LinkDown pulls the cable between the gateway and the internet. The gateway
// keeps its addresses, routes and mappings.
func (g *Gateway) LinkDown() {
	g.lab.t.Helper()
	g.must("link down", g.up.run("", "ip", "link", "set", g.port, "down"))
}

// LinkUp plugs it in again. The lab's default has it in.
func (g *Gateway) LinkUp() {
	g.lab.t.Helper()
	g.must("link up", g.up.do(func() error {
		return ipBatch([]string{"link set " + g.port + " up"})
	}))
	g.must("link up", g.up.restoreRoutes())
}
