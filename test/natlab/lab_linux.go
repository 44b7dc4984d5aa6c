package natlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// Family says which IP versions a world has.
type Family uint8

// The families.
const (
	IPv4 Family = iota
	DualStack
	IPv6
)

// Config describes a lab. The zero value is two hosts with public IPv4
// addresses at two sites, and a server.
type Config struct {
	Family Family
	A, B   Site
	// LANOnly leaves site A's network alone: no gateway address, router, server or site B.
	LANOnly bool
	// Cable leaves a host of A and one of B, joined by one cable: what is between them costs next to nothing. A and B count for nothing.
	Cable bool
}

// Site describes one LAN and the way from it to the internet.
type Site struct {
	NAT NAT
	// Outer is a second NAT between the site's gateway and the internet, a
	// provider's; None: there is no second NAT. It needs a NAT at the site.
	Outer NAT
	// Hosts is the number of hosts; 0 means one.
	Hosts int
	// LAN is the IPv4 prefix of the LAN, /24 or shorter; the zero value means
	// 192.168.10.0/24 for site A and 192.168.20.0/24 for site B, or with no NAT public addresses.
	LAN netip.Prefix
	// Hairpin lets hosts behind the gateway reach each other's outside UDP addresses.
	Hairpin bool
	// Firewall6 admits only answers over IPv6.
	Firewall6 bool
	// Loss is how many of 10,000 packets the gateway drops, each way.
	Loss int
	// NoIPv4 and NoIPv6 take one version away from a site of a DualStack lab.
	NoIPv4, NoIPv6 bool
}

// Lab is a running world. Its fields are constant; its methods and those of its
// parts that change the network end the test on error, so they are called from
// the test's own goroutine.
type Lab struct {
	// A and B are the hosts of the two sites. B is empty with Config.LANOnly.
	A, B []*Host
	// SiteA and SiteB are the gateways; nil with Config.LANOnly and Config.Cable.
	SiteA, SiteB *Gateway
	// Server has a public address; nil with Config.LANOnly and Config.Cable.
	Server *Host
	// ServerAlt4 and ServerAlt6 are second addresses of the server, for tests of filtering; invalid without that family.
	ServerAlt4, ServerAlt6 netip.Addr

	t      testing.TB
	name   string
	family Family
	nodes  []*node // in the order made
}

// node is a namespace and the lines of ip(8) that configure it.
type node struct {
	namespace
	lines []string
}

// Every router and host: no waiting for duplicate address detection, and no
// path filter, router advertisement or kernel limit on ICMP between a test and
// what it measures.
var baseSettings = []string{
	"net/ipv4/conf/all/rp_filter=0", "net/ipv4/conf/default/rp_filter=0",
	"net/ipv4/icmp_ratelimit=0", "net/ipv6/icmp/ratelimit=0",
	"net/ipv6/conf/all/accept_dad=0", "net/ipv6/conf/default/accept_dad=0",
	"net/ipv6/conf/all/accept_ra=0", "net/ipv6/conf/default/accept_ra=0",
	"net/ipv6/conf/all/keep_addr_on_down=1", "net/ipv6/conf/default/keep_addr_on_down=1",
	// Bridged frames are the LAN's own affair.
	"net/bridge/bridge-nf-call-iptables=0", "net/bridge/bridge-nf-call-ip6tables=0",
}

var forwardSettings = []string{"net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1"}

// Need skips the test where labs can't be made: without root. A missing
// program is an error that says what to install.
func Need(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	for _, tool := range [][2]string{{"ip", "iproute2"}, {"nft", "nftables"}, {"conntrack", "conntrack"}, {"nsenter", "util-linux"}, {"unshare", "util-linux"}} {
		if _, err := exec.LookPath(tool[0]); err != nil {
			t.Fatalf("%s is missing: install the package %s", tool[0], tool[1])
		}
	}
}

// New makes a lab that lasts until the test ends. It skips the test without
// root, and ends it when the lab can't be made.
func New(t testing.TB, c Config) *Lab {
	t.Helper()
	Need(t)
	sweep()
	name, err := labName()
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{t: t, name: name, family: c.Family}
	t.Cleanup(l.close)
	if err := l.build(c); err != nil {
		t.Fatalf("make lab: %v", err)
	}
	return l
}

// close ends the processes inside and removes the namespaces.
func (l *Lab) close() {
	for _, h := range l.hosts() {
		h.isolation.close()
	}
	var all []namespace
	for _, n := range l.nodes {
		all = append(all, n.namespace)
	}
	for _, command := range killInside(all) {
		l.t.Logf("natlab: ended what the test left running: %s", command)
	}
	if err := remove(all); err != nil {
		l.t.Errorf("remove lab: %v", err)
	}
}

func (l *Lab) hosts() []*Host {
	var all []*Host
	all = append(append(all, l.A...), l.B...)
	if l.Server != nil {
		all = append(all, l.Server)
	}
	return all
}

func (l *Lab) node(role string) *node {
	n := &node{namespace: namespace{l.name + "-" + role}}
	n.add("link set lo up")
	l.nodes = append(l.nodes, n)
	return n
}

func (n *node) add(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if strings.HasPrefix(line, "addr add ") && strings.Contains(line, ":") {
		line += " nodad" // else it can't be used before the kernel has seen, in its own time, that the cable is there
	}
	n.lines = append(n.lines, line)
}

func (l *Lab) host(n *node, addr4, addr6 netip.Addr) *Host {
	return &Host{Name: strings.TrimPrefix(n.name, l.name+"-"), lab: l, ns: n.namespace, addr4: addr4, addr6: addr6, isolation: &isolation{ns: n.namespace}}
}

// build plans every namespace and cable, then makes them in four rounds: the
// namespaces, their kernel settings, the cables, and in all namespaces at once the addresses and rules.
func (l *Lab) build(c Config) error {
	var links []string
	var gateways []*Gateway
	switch {
	case c.Cable:
		links = l.planCable(c)
	case c.LANOnly:
		site := &sitePlan{lab: l, letter: "a", number: 1, Site: c.A, family: c.Family}
		if err := site.plan(nil); err != nil {
			return err
		}
		l.A, links = site.hosts, site.links
		site.bridge.forwards = false
		gateways = append(gateways, site.bridge)
	default:
		router := l.node("router")
		links = append(links, l.planServer(c, router)...)
		a := &sitePlan{lab: l, letter: "a", number: 1, Site: c.A, family: c.Family}
		b := &sitePlan{lab: l, letter: "b", number: 2, Site: c.B, family: c.Family}
		for _, site := range []*sitePlan{a, b} {
			if err := site.plan(router); err != nil {
				return err
			}
			links = append(links, site.links...)
			for g := site.bridge; g != nil; g = g.Outer {
				gateways = append(gateways, g)
			}
		}
		l.A, l.B, l.SiteA, l.SiteB = a.hosts, b.hosts, a.bridge, b.bridge
		gateways = append(gateways, &Gateway{lab: l, node: router, forwards: true})
	}

	var names []string
	for _, n := range l.nodes {
		names = append(names, "netns add "+n.name)
	}
	if err := ipBatch(names); err != nil {
		return err
	}
	forwarding := make(map[*node]bool)
	for _, g := range gateways {
		forwarding[g.node] = g.forwards
	}
	for _, n := range l.nodes {
		settings := baseSettings
		if forwarding[n] {
			settings = append(settings[:len(settings):len(settings)], forwardSettings...)
		}
		if c.Family == IPv4 {
			settings = append(settings[:len(settings):len(settings)], "net/ipv6/conf/all/disable_ipv6=1", "net/ipv6/conf/default/disable_ipv6=1")
		}
		if err := n.sysctl(settings); err != nil {
			return err
		}
	}
	if err := ipBatch(links); err != nil {
		return err
	}
	return l.configure(gateways)
}

// configure sets addresses, routes and rules, in all namespaces at once.
func (l *Lab) configure(gateways []*Gateway) error {
	errs := make([]error, len(l.nodes))
	var wg sync.WaitGroup
	for i, n := range l.nodes {
		wg.Go(func() {
			errs[i] = n.do(func() error { return ipBatch(n.lines) })
			for _, g := range gateways {
				if g.node == n && errs[i] == nil {
					errs[i] = g.load()
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i, n := range l.nodes {
		wg.Go(func() { errs[i] = n.waitRunning() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// runningWait is how long the kernel may take to notice that the cables are in: it does so within a second.
const runningWait = 10 * time.Second

// waitRunning returns when every interface is in use. Until then the kernel
// drops what is sent, and a bridge what comes in, without an error.
func (n *node) waitRunning() error {
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	deadline := time.Now().Add(runningWait)
	for {
		ports, running, forwarding := 0, true, 0
		err := n.do(func() error {
			all, err := net.Interfaces()
			for _, ifi := range all {
				running = running && ifi.Flags&net.FlagRunning != 0
				if strings.HasPrefix(ifi.Name, "p") {
					ports++
				}
			}
			if err != nil || !running || ports == 0 {
				return err
			}
			out, err := exec.Command("ip", "-details", "link", "show", "master", "lan").Output()
			forwarding = strings.Count(string(out), "state forwarding")
			return err
		})
		if err != nil || running && forwarding == ports {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait for links of %s: %d of %d bridge ports forward after %v", n.name, forwarding, ports, runningWait)
		}
		<-poll.C
	}
}

// restoreRoutes sets a node's routes again, which the kernel drops when their link goes down.
func (n *node) restoreRoutes() error {
	var lines []string
	for _, line := range n.lines {
		if strings.Contains(line, "route add") {
			lines = append(lines, strings.Replace(line, "route add", "route replace", 1))
		}
	}
	return n.do(func() error { return ipBatch(lines, "-force") })
}

// planServer adds the server and its segment, 5.1.0.0/24 and 2a0e::/64.
func (l *Lab) planServer(c Config, router *node) []string {
	server := l.node("server")
	router.add("link set srv up")
	server.add("link set eth0 up")
	var addr4, addr6 netip.Addr
	if c.Family != IPv6 {
		addr4, l.ServerAlt4 = netip.MustParseAddr("5.1.0.10"), netip.MustParseAddr("5.1.0.11")
		router.add("addr add 5.1.0.1/24 dev srv")
		server.add("addr add %s/24 dev eth0", addr4)
		server.add("addr add %s/24 dev eth0", l.ServerAlt4)
		server.add("route add default via 5.1.0.1")
	}
	if c.Family != IPv4 {
		addr6, l.ServerAlt6 = netip.MustParseAddr("2a0e::10"), netip.MustParseAddr("2a0e::11")
		router.add("addr add 2a0e::1/64 dev srv")
		// The kernel prefers the address added last; deprecated ones come after all others.
		server.add("addr add %s/64 dev eth0 preferred_lft 0", l.ServerAlt6)
		server.add("addr add %s/64 dev eth0", addr6)
		server.add("route add default via 2a0e::1")
	}
	l.Server = l.host(server, addr4, addr6)
	return []string{fmt.Sprintf("link add srv netns %s type veth peer name eth0 netns %s", router.name, server.name)}
}
