package libp2p

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// Multicast DNS, so that peers on one network find each other with nothing else (RFC 6762, and libp2p's mDNS discovery).
//
// Whoever starts asks for the service and says where it is, twice; whoever hears the question answers; whoever hears of a configured
// peer dials it. So a peer that was killed and started again is found by its own question, and dialled because of its announcement,
// within milliseconds. After that each node announces itself once a minute, which heals lost packets and costs one packet.
//
// The interfaces are read again every few seconds: after a change everything starts over.

const (
	// announceAgain is when the first question and announcement are repeated, since multicast may be lost (section 8.3).
	announceAgain    = time.Second
	announceInterval = time.Minute

	// answerInterval bounds how often questions are answered, whoever asks (section 6: at most once a second; half of that lets
	// two peers that start together find each other faster).
	answerInterval = 500 * time.Millisecond

	// redialPause comes between two dials of a peer that is announced all the time.
	redialPause = 500 * time.Millisecond

	// foundTTL is how long an announced address is tried.
	foundTTL = 3 * announceInterval
)

var (
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
// new, which is what a restart looks like, it is dialled. Nothing proves an announcement: so a peer has the addresses of its last one
// alone, and is dialled once at a time.
func (b *Backend) found(info peer.AddrInfo) {
	if info.ID == b.host.ID() {
		return
	}
	before := b.remember(info)
	k, configured := b.gater.key(info.ID) // not before: who configures it in between would know of no announcement
	if !configured {
		return
	}
	addrs := b.gater.filter(info.Addrs)
	b.mu.Lock() // whoever asks Reach in the middle would wait, and not be told
	known := b.host.Peerstore().Addrs(info.ID)
	fresh := subtract(addrs, known)
	b.host.Peerstore().SetAddrs(info.ID, subtract(before, addrs), 0)
	b.host.Peerstore().AddAddrs(info.ID, addrs, foundTTL)
	b.mu.Unlock()
	if len(known) == 0 && len(fresh) > 0 && b.enter() {
		b.env.Sink.PeerAvailable(k) // it may be: see Reach
		b.wg.Done()
	}
	if len(addrs) == 0 || b.host.Network().Connectedness(info.ID) == network.Connected || len(fresh) == 0 && b.met(info.ID) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	_, busy := b.dialling[info.ID]
	b.dialling[info.ID] = busy
	if !busy {
		b.wg.Go(func() { b.dialFound(info.ID) })
	}
}

// dialFound dials a peer at its announced addresses, and again if it was announced anew meanwhile.
func (b *Backend) dialFound(id peer.ID) {
	for again := true; again; {
		ctx, cancel := context.WithTimeout(b.ctx, connectTimeout)
		b.host.ForgetFailures(id)
		_, err := b.host.Network().DialPeer(network.WithForceDirectDial(ctx, "found on the local network"), id)
		cancel()
		if err != nil {
			b.log.Debug("peer on the local network not reached", "peer", id, "error", err)
		}
		b.mu.Lock()
		again = err != nil && b.dialling[id] && b.ctx.Err() == nil
		if again {
			b.dialling[id] = false
		} else {
			delete(b.dialling, id)
		}
		b.mu.Unlock()
		if again {
			b.pause(redialPause)
		}
	}
}

// met reports whether the peer was connected before: then a regular announcement is no reason to dial it.
func (b *Backend) met(id peer.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.lastUsed[id]
	return ok
}

// maxHeard bounds the memory for announcements of peers that are not configured.
const maxHeard = 512

// sighting is an announcement and when it was heard.
type sighting struct {
	info peer.AddrInfo
	at   time.Time
}

// remember keeps an announcement, and returns the addresses of the one before: its sender may be configured a moment later, and
// announces itself again only after a minute.
func (b *Backend) remember(info peer.AddrInfo) (before []ma.Multiaddr) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.heard) >= maxHeard {
		maps.DeleteFunc(b.heard, func(_ peer.ID, s sighting) bool { return now.Sub(s.at) >= foundTTL })
	}
	old, room := b.heard[info.ID]
	if room = room || len(b.heard) < maxHeard; !room {
		_, room = b.gater.key(info.ID)
	}
	if room {
		b.heard[info.ID] = sighting{info, now}
	}
	return old.info.Addrs
}
