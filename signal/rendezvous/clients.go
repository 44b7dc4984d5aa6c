package rendezvous

import (
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	relayv2 "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/libp2p/node"
)

// handOutTimeout bounds one answer.
const handOutTimeout = 10 * time.Second

// gater admits WireGuard peers only, and dials nobody.
type gater struct{}

var (
	_ connmgr.ConnectionGater = gater{}
	_ relayv2.ACLFilter       = acl{}
)

// InterceptPeerDial implements [connmgr.ConnectionGater].
func (gater) InterceptPeerDial(peer.ID) bool { return false }

// InterceptAddrDial implements [connmgr.ConnectionGater].
func (gater) InterceptAddrDial(peer.ID, ma.Multiaddr) bool { return false }

// InterceptAccept implements [connmgr.ConnectionGater].
func (gater) InterceptAccept(network.ConnMultiaddrs) bool { return true }

// InterceptSecured implements [connmgr.ConnectionGater].
func (gater) InterceptSecured(d network.Direction, id peer.ID, _ network.ConnMultiaddrs) bool {
	return d == network.DirInbound && isClient(id)
}

// InterceptUpgraded implements [connmgr.ConnectionGater].
func (gater) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// acl lets WireGuard peers reserve, and reach WireGuard peers.
type acl struct{}

// AllowReserve implements [relayv2.ACLFilter].
func (acl) AllowReserve(id peer.ID, _ ma.Multiaddr) bool { return isClient(id) }

// AllowConnect implements [relayv2.ACLFilter].
func (acl) AllowConnect(src peer.ID, _ ma.Multiaddr, dest peer.ID) bool {
	return isClient(src) && isClient(dest)
}

// handOut answers a client that asks for STUN and TURN servers.
func (s *Server) handOut(stream network.Stream) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		stream.Reset()
		return
	}
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()

	k, err := node.PublicKey(stream.Conn().RemotePeer())
	if err != nil {
		stream.Reset()
		return
	}
	stream.SetDeadline(time.Now().Add(handOutTimeout))
	b, err := s.iceCredentials(k, localAddr(stream.Conn()), time.Now()).Marshal()
	if err == nil {
		err = node.WriteFrame(stream, b, proto.MaxICECredentialsSize)
	}
	if err != nil {
		s.log.Debug("ICE servers not handed out", "peer", k.Short(), "error", err)
		stream.Reset()
		return
	}
	stream.Close()
}

// localAddr returns the address of ours that a connection came to; invalid: unknown.
func localAddr(c network.Conn) netip.Addr {
	ip, err := manet.ToIP(c.LocalMultiaddr())
	if err != nil {
		return netip.Addr{}
	}
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// useful returns the announced addresses that a client needs which came to local: that one, and the first of the other IP version. Each
// address more would cost every session of the client more requests, candidates and allocations, and win nothing. Behind a
// one-to-one NAT, where local is not announced, nobody knows which one it is: all.
func useful(announced []netip.Addr, local netip.Addr) []netip.Addr {
	if !slices.Contains(announced, local) {
		return announced
	}
	other := slices.IndexFunc(announced, func(a netip.Addr) bool { return a.Is4() != local.Is4() })
	if other < 0 {
		return []netip.Addr{local}
	}
	return []netip.Addr{local, announced[other]}
}

// iceCredentials returns what the client with that key, which is proved, is told: STUN, and TURN if it may have it. It came to local.
func (s *Server) iceCredentials(k key.Public, local netip.Addr, now time.Time) *proto.ICECredentials {
	expires := now.Add(s.options.Limits.CredentialsLifetime).Truncate(time.Second)
	out := &proto.ICECredentials{Expires: expires}
	add := func(server proto.ICEServer) {
		if len(out.Servers) < proto.MaxICEServers {
			out.Servers = append(out.Servers, server)
		}
	}
	relay := s.options.Relay && s.turn.allowed(k)
	for _, a := range useful(s.announced, local) {
		host, port := a.String(), s.turn.port
		add(proto.ICEServer{Scheme: proto.STUN, Host: host, Port: port, Transport: proto.TransportUDP})
		if relay {
			user, password := s.turn.credentials.issue(k, expires)
			for _, transport := range []proto.ICETransport{proto.TransportUDP, proto.TransportTCP} {
				add(proto.ICEServer{Scheme: proto.TURN, Host: host, Port: port, Transport: transport, Username: user, Password: password})
			}
		}
		if s.turn.second != 0 {
			add(proto.ICEServer{Scheme: proto.STUN, Host: host, Port: s.turn.second, Transport: proto.TransportUDP})
		}
	}
	return out
}
