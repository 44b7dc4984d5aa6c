package libp2p

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Multicast DNS, so that peers on one network find each other with nothing else (RFC 6762, and libp2p's mDNS discovery).
//
// Whoever starts asks for the service and says where it is, twice; whoever hears the question answers; whoever hears of a configured
// peer dials it. So a peer that was killed and started again is found by its own question, and dialled because of its announcement,
// within milliseconds. After that each node announces itself once a minute, which heals lost packets and costs one packet.
//
// The interfaces are read again every few seconds: after a change everything starts over.

const (
	mdnsPort = 5353 // RFC 6762, section 3

	// announceAgain is when the first question and announcement are repeated, since multicast may be lost (section 8.3).
	announceAgain    = time.Second
	announceInterval = time.Minute

	// answerInterval bounds how often questions are answered, whoever asks (section 6: at most once a second; half of that lets
	// two peers that start together find each other faster).
	answerInterval = 500 * time.Millisecond

	// foundTTL is how long an announced address is tried.
	foundTTL = 3 * announceInterval
)

var (
	group4 = net.IPv4(224, 0, 0, 251)
	group6 = net.ParseIP("ff02::fb")

	errNoMulticast = errors.New("no network interface with multicast")
)

// discover runs multicast DNS until the backend is closed.
func (b *Backend) discover() {
	instance := strings.ToLower(rand.Text())
	for b.ctx.Err() == nil {
		ifaces := b.multicastInterfaces()
		err := errNoMulticast
		if len(ifaces) > 0 {
			err = b.discoverOn(instance, ifaces)
		}
		b.setLocal(err)
		b.pause(watchInterval)
	}
}

func (b *Backend) setLocal(err error) {
	if b.ctx.Err() != nil {
		return
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	b.mu.Lock()
	changed := b.localIsOn != (err == nil) || b.localNet != text
	b.localIsOn, b.localNet = err == nil, text
	b.mu.Unlock()
	if changed && err != nil {
		b.log.Info("local discovery is off", "error", err)
	}
}

func (b *Backend) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-b.ctx.Done():
	}
}

// iface is an interface to speak on, comparable in order to notice changes.
type iface struct {
	net.Interface
	addrs string
}

// multicastInterfaces returns the interfaces that are up and can multicast, without those of the overlay. Loopback counts only where
// it is listened on by name.
func (b *Backend) multicastInterfaces() []iface {
	list, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var out []iface
	for _, i := range list {
		loopback := i.Flags&net.FlagLoopback != 0
		if i.Flags&net.FlagUp == 0 || loopback && !b.gater.loopback || !loopback && i.Flags&net.FlagMulticast == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil || len(addrs) == 0 || slices.ContainsFunc(addrs, b.isOverlay) {
			continue
		}
		out = append(out, iface{Interface: i, addrs: fmt.Sprint(addrs)})
	}
	return out
}

func (b *Backend) isOverlay(a net.Addr) bool {
	n, ok := a.(*net.IPNet)
	if !ok {
		return false
	}
	m, err := ma.NewMultiaddr("/ip4/" + n.IP.String())
	if n.IP.To4() == nil {
		m, err = ma.NewMultiaddr("/ip6/" + n.IP.String())
	}
	return err == nil && b.gater.excluded(m)
}

// link is the sockets of multicast DNS on some interfaces.
type link struct {
	ifaces []iface
	v4     *ipv4.PacketConn
	v6     *ipv6.PacketConn
}

func (b *Backend) openLink(ctx context.Context, ifaces []iface) (*link, error) {
	l := &link{ifaces: ifaces}
	config := net.ListenConfig{Control: b.env.Control}
	// A multicast address makes Go share the port with other responders on this machine.
	c4, err4 := config.ListenPacket(ctx, "udp4", "224.0.0.0:5353")
	if err4 == nil {
		l.v4 = ipv4.NewPacketConn(c4)
		joined := 0
		for i := range ifaces {
			if l.v4.JoinGroup(&ifaces[i].Interface, &net.UDPAddr{IP: group4}) == nil {
				joined++
			}
		}
		l.v4.SetMulticastTTL(255)
		l.v4.SetMulticastLoopback(true) // several interfaces, or users, on one machine
		if joined == 0 {
			c4.Close()
			l.v4, err4 = nil, errors.New("IPv4 multicast is not possible on any interface")
		}
	}
	c6, err6 := config.ListenPacket(ctx, "udp6", "[ff02::]:5353")
	if err6 == nil {
		l.v6 = ipv6.NewPacketConn(c6)
		joined := 0
		for i := range ifaces {
			if l.v6.JoinGroup(&ifaces[i].Interface, &net.UDPAddr{IP: group6}) == nil {
				joined++
			}
		}
		l.v6.SetMulticastHopLimit(255)
		l.v6.SetMulticastLoopback(true)
		if joined == 0 {
			c6.Close()
			l.v6, err6 = nil, errors.New("IPv6 multicast is not possible on any interface")
		}
	}
	if l.v4 == nil && l.v6 == nil {
		return nil, errors.Join(err4, err6)
	}
	return l, nil
}

// send multicasts on every interface. It fails if none took the packet.
func (l *link) send(packet []byte) error {
	var errs []error
	sent := false
	for i := range l.ifaces {
		ifi := &l.ifaces[i].Interface
		if l.v4 != nil {
			err := l.v4.SetMulticastInterface(ifi)
			if err == nil {
				_, err = l.v4.WriteTo(packet, nil, &net.UDPAddr{IP: group4, Port: mdnsPort})
			}
			sent, errs = sent || err == nil, append(errs, err)
		}
		if l.v6 != nil {
			err := l.v6.SetMulticastInterface(ifi)
			if err == nil {
				_, err = l.v6.WriteTo(packet, nil, &net.UDPAddr{IP: group6, Port: mdnsPort, Zone: ifi.Name})
			}
			sent, errs = sent || err == nil, append(errs, err)
		}
	}
	if sent {
		return nil
	}
	return errors.Join(errs...)
}

func (l *link) close() {
	if l.v4 != nil {
		l.v4.Close()
	}
	if l.v6 != nil {
		l.v6.Close()
	}
}

// read passes packets on until the link is closed. Packets from other ports are from resolvers that want unicast answers, which
// nobody needs here.
func (l *link) read(from func([]byte) (int, net.Addr, error), packets chan<- []byte) {
	buf := make([]byte, 9000) // RFC 6762, section 17
	for {
		n, src, err := from(buf)
		if err != nil {
			return
		}
		if a, ok := src.(*net.UDPAddr); !ok || a.Port != mdnsPort {
			continue
		}
		select {
		case packets <- slices.Clone(buf[:n]):
		default: // a flood: multicast may be lost, so nobody relies on it
		}
	}
}

// discoverOn runs multicast DNS on interfaces until they change or the backend is closed. Its error says why it could not start.
func (b *Backend) discoverOn(instance string, ifaces []iface) error {
	l, err := b.openLink(b.ctx, ifaces)
	if err != nil {
		return err
	}
	packets := make(chan []byte, 64)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer l.close()
	if l.v4 != nil {
		readers.Go(func() {
			l.read(func(p []byte) (int, net.Addr, error) { n, _, a, err := l.v4.ReadFrom(p); return n, a, err }, packets)
		})
	}
	if l.v6 != nil {
		readers.Go(func() {
			l.read(func(p []byte) (int, net.Addr, error) { n, _, a, err := l.v6.ReadFrom(p); return n, a, err }, packets)
		})
	}

	ask, err := query()
	if err != nil {
		return err
	}
	err = errors.Join(l.send(ask), b.announce(l, instance))
	b.setLocal(err)
	again := time.NewTimer(announceAgain)
	defer again.Stop()
	regular := time.NewTicker(announceInterval)
	defer regular.Stop()
	watch := time.NewTicker(watchInterval)
	defer watch.Stop()
	var lastAnswer time.Time
	var answer <-chan time.Time // an answer that has to wait
	for {
		var err error
		select {
		case <-b.ctx.Done():
			return nil
		case packet := <-packets:
			asked, infos, _ := parseMDNS(packet)
			if asked && answer == nil {
				answer = time.After(answerInterval - time.Since(lastAnswer))
			}
			for _, info := range infos {
				b.found(info)
			}
			continue
		case <-answer:
			answer, lastAnswer = nil, time.Now()
			err = b.announce(l, instance)
		case <-again.C:
			err = errors.Join(l.send(ask), b.announce(l, instance))
		case <-regular.C:
			err = b.announce(l, instance)
		case <-watch.C:
			if !slices.EqualFunc(ifaces, b.multicastInterfaces(), sameInterface) {
				return nil
			}
			continue
		}
		b.setLocal(err)
	}
}

func sameInterface(a, b iface) bool {
	return a.Index == b.Index && a.Name == b.Name && a.addrs == b.addrs
}

// announce says where this node is. Addresses are asked for each time, since the ports of new interfaces come later.
func (b *Backend) announce(l *link, instance string) error {
	listen, err := b.host.Network().InterfaceListenAddresses()
	if err != nil {
		return err
	}
	addrs := slices.DeleteFunc(b.gater.filter(listen), func(a ma.Multiaddr) bool {
		_, circuit := circuitRelay(a)
		return circuit
	})
	if len(addrs) == 0 {
		return errors.New("no address to announce")
	}
	full, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: b.host.ID(), Addrs: addrs})
	if err != nil {
		return err
	}
	packet, err := announcement(instance, full)
	if err != nil {
		return err
	}
	return l.send(packet)
}

// found takes an announcement. Only configured peers count. If one is not connected, or its announcement names addresses that are
// new, which is what a restart looks like, it is dialled.
func (b *Backend) found(info peer.AddrInfo) {
	if info.ID == b.host.ID() {
		return
	}
	b.remember(info)
	if _, ok := b.gater.key(info.ID); !ok {
		return
	}
	addrs := b.gater.filter(info.Addrs)
	fresh := subtract(addrs, b.host.Peerstore().Addrs(info.ID))
	b.host.Peerstore().AddAddrs(info.ID, addrs, foundTTL)
	if len(addrs) == 0 || b.host.Network().Connectedness(info.ID) == network.Connected || len(fresh) == 0 && b.recent(info.ID) {
		return
	}
	if !b.enter() {
		return
	}
	go func() {
		defer b.wg.Done()
		ctx, cancel := context.WithTimeout(b.ctx, connectTimeout)
		defer cancel()
		b.host.ForgetFailures(info.ID)
		ctx = network.WithForceDirectDial(ctx, "found on the local network")
		if _, err := b.host.Network().DialPeer(ctx, info.ID); err != nil {
			b.log.Debug("peer on the local network not reached", "peer", info.ID, "error", err)
		}
	}()
}

// recent reports whether the peer was in use a moment ago: then a regular announcement is no reason to dial it again.
func (b *Backend) recent(id peer.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Since(b.lastUsed[id]) < idleTimeout+announceInterval
}

// maxHeard bounds the memory for announcements of others.
const maxHeard = 512

// sighting is an announcement and when it was heard.
type sighting struct {
	info peer.AddrInfo
	at   time.Time
}

// remember keeps an announcement: its sender may be configured a moment later, and announces itself again only after a minute.
func (b *Backend) remember(info peer.AddrInfo) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.heard) >= maxHeard {
		maps.DeleteFunc(b.heard, func(_ peer.ID, s sighting) bool { return now.Sub(s.at) >= foundTTL })
	}
	if _, ok := b.heard[info.ID]; ok || len(b.heard) < maxHeard {
		b.heard[info.ID] = sighting{info, now}
	}
}
