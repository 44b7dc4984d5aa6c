package libp2p

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// mdnsPort and the groups are those of RFC 6762, section 3.
const mdnsPort = 5353

var (
	group4 = net.IPv4(224, 0, 0, 251)
	group6 = net.ParseIP("ff02::fb")
)

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

func sameInterface(a, b iface) bool {
	return a.Index == b.Index && a.Name == b.Name && a.addrs == b.addrs
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
