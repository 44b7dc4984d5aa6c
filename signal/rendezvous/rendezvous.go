// Package rendezvous is the server of a self-hosted network: where clients find each other, learn their public addresses, and are
// relayed when no direct path exists.
//
//   - a libp2p node over TCP and QUIC: DHT server, and circuit relay for signaling (a few kilobytes for each pair of peers)
//   - STUN on UDP (two ports, so that clients can tell symmetric NATs)
//   - TURN on UDP and TCP, with short-lived credentials
//
// A client's libp2p peer ID is its WireGuard key, so the libp2p connection proves the key. Credentials for TURN are handed out over
// that connection alone: no account, no shared secret. Peers without a WireGuard key are refused.
package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"sync"
	"syscall"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	relayv2 "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/libp2p/node"
)

// The ports of the command line's defaults.
const (
	DefaultPort     = 4001 // libp2p's usual one
	DefaultSTUNPort = 3478 // RFC 8489, section 18.6
)

// Options configure a server.
type Options struct {
	Addresses []netip.Addr // to listen on; empty: all
	Announce  []netip.Addr // to tell clients; empty: the former. As many as Addresses: they belong together in their order

	Port     uint16 // libp2p, TCP and UDP; 0: chosen by the system
	STUNPort uint16 // STUN and TURN, UDP and TCP; 0: chosen by the system

	StateDir string       // keeps the identity; empty: a new identity for each start
	Allow    []key.Public // who gets TURN credentials; empty: every client
	Relay    bool         // offer TURN

	// AllowPrivate relays to private addresses too, for networks that live on them.
	AllowPrivate bool

	Limits Limits       // zero fields: DefaultLimits
	Logger *slog.Logger // nil: nothing is logged
}

// Server is a running rendezvous. All methods are safe for concurrent use.
type Server struct {
	options   Options
	announced []netip.Addr
	log       *slog.Logger
	identity  crypto.PrivKey
	port      uint16 // of libp2p over TCP, which the lines name
	host      *node.Host
	dht       *dht.IpfsDHT
	relay     *relayv2.Relay
	turn      *turnServer
	stop      func() error   // once
	wg        sync.WaitGroup // stream handlers

	// mu guards all following.
	mu     sync.Mutex
	closed bool
}

// Start listens on every port and serves. An error says which port or file is the matter and what to do. The server runs until Close,
// or until ctx is done.
func Start(ctx context.Context, o Options) (*Server, error) {
	o.Limits = o.Limits.orDefault()
	s := &Server{options: o, log: o.Logger}
	s.stop = sync.OnceValue(s.shutdown)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	endpoints, announced, err := plan(o.Addresses, o.Announce)
	if err != nil {
		return nil, err
	}
	s.announced = announced
	if s.identity, err = loadIdentity(o.StateDir); err != nil {
		return nil, err
	}
	if err := s.startNode(endpoints); err != nil {
		s.Close()
		return nil, err
	}
	c, err := newCredentials(s.identity)
	if err == nil {
		s.turn, err = startTURN(o, endpoints, announced, c, s.log)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	s.host.SetStreamHandler(node.ICEServersProtocol, s.handOut)
	context.AfterFunc(ctx, func() { s.Close() })
	s.log.Info("rendezvous serves", "peer_id", s.host.ID(), "port", s.port, "stun_port", s.turn.port, "relay", o.Relay)
	return s, nil
}

// Lines returns what clients put into the [Interface] section of their files: one line for each announced address. Any one of them is
// enough; several add up.
func (s *Server) Lines() []string {
	lines := make([]string, 0, len(s.announced))
	for _, b := range s.Bootstraps() {
		lines = append(lines, "#!wice Signaling = libp2p:?bootstrap="+b)
	}
	return lines
}

// Bootstraps returns the multiaddrs in [Server.Lines].
func (s *Server) Bootstraps() []string {
	out := make([]string, 0, len(s.announced))
	for _, a := range s.announced {
		out = append(out, fmt.Sprintf("/ip%s/%s/tcp/%d/p2p/%s", family(a), a, s.port, s.host.ID()))
	}
	return out
}

// STUNPort returns the port of STUN and TURN.
func (s *Server) STUNPort() uint16 { return s.turn.port }

// Close stops everything, waits for it, and is idempotent.
func (s *Server) Close() error { return s.stop() }

func (s *Server) shutdown() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	var errs []error
	if s.relay != nil {
		errs = append(errs, s.relay.Close())
	}
	if s.dht != nil {
		errs = append(errs, s.dht.Close())
	}
	if s.host != nil {
		errs = append(errs, s.host.Close())
	}
	if s.turn != nil {
		errs = append(errs, s.turn.Close())
	}
	s.wg.Wait()
	return errors.Join(errs...)
}

// startNode starts the libp2p side.
func (s *Server) startNode(endpoints []endpoint) (err error) {
	var listen []ma.Multiaddr
	for _, e := range endpoints {
		base := fmt.Sprintf("/ip%s/%s", family(e.listen), e.listen)
		listen = append(listen, ma.StringCast(fmt.Sprintf("%s/tcp/%d", base, s.options.Port)),
			ma.StringCast(fmt.Sprintf("%s/udp/%d/quic-v1", base, s.options.Port)))
	}
	s.host, err = node.NewHost(node.Options{
		Key: s.identity, Limits: s.options.Limits.Node, Gater: gater{}, Announce: s.announce, Listen: listen, ListenAll: true,
	})
	if err != nil {
		return listenError("libp2p", "--port", "TCP or UDP", netip.AddrPortFrom(endpoints[0].listen, s.options.Port), err)
	}
	for _, a := range s.host.Network().ListenAddresses() {
		if p, err := a.ValueForProtocol(ma.P_TCP); err == nil && s.port == 0 {
			n, err := strconv.ParseUint(p, 10, 16)
			if err != nil {
				return fmt.Errorf("rendezvous: %w", err)
			}
			s.port = uint16(n)
		}
	}
	s.dht, err = dht.New(s.host,
		dht.Mode(dht.ModeServer), dht.ProtocolPrefix(node.DHTPrefix),
		dht.DisableProviders(), dht.DisableValues(), dht.DisableAutoRefresh())
	if err != nil {
		return fmt.Errorf("rendezvous: DHT: %w", err)
	}
	l := s.options.Limits
	s.relay, err = relayv2.New(s.host,
		relayv2.WithACL(acl{}),
		relayv2.WithReservationAddressFilter(func(ma.Multiaddr) bool { return true }), // private networks count too
		relayv2.WithResources(relayv2.Resources{
			Limit:                 &relayv2.RelayLimit{Duration: l.CircuitDuration, Data: l.CircuitBytes},
			ReservationTTL:        relayv2.DefaultResources().ReservationTTL,
			MaxReservations:       l.Reservations,
			MaxReservationsPerIP:  l.ReservationsPerIP,
			MaxReservationsPerASN: l.Reservations, // the clients of one network often have one provider
			MaxCircuits:           l.CircuitsPerClient,
			BufferSize:            relayv2.DefaultResources().BufferSize,
		}))
	if err != nil {
		return fmt.Errorf("rendezvous: circuit relay: %w", err)
	}
	return nil
}

// announce turns the addresses that the node listens on into the announced ones with the same ports.
func (s *Server) announce(listen []ma.Multiaddr) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, l := range listen {
		ip, rest := ma.SplitFirst(l)
		if ip == nil {
			continue
		}
		for _, a := range s.announced {
			if ip.Protocol().Code == ma.P_IP4 == a.Is4() {
				out = append(out, ma.StringCast("/ip"+family(a)+"/"+a.String()).Encapsulate(rest))
			}
		}
	}
	return ma.Unique(out)
}

// listenError says which port is taken, and what to do.
func listenError(what, flag, transport string, at netip.AddrPort, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("rendezvous: %s port %d (%s) is in use on %s: is another rendezvous running? Stop it, or choose another port with %s: %w",
			what, at.Port(), transport, at.Addr(), flag, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("rendezvous: %s is not an address of this machine: name one that is with --address, and the one that clients see with --announce: %w", at.Addr(), err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("rendezvous: no permission for %s port %d: choose one from 1024 up with %s: %w", what, at.Port(), flag, err)
	}
	return fmt.Errorf("rendezvous: %s on %s: %w", what, at, err)
}

// isClient reports whether a libp2p peer is a WireGuard peer.
func isClient(id peer.ID) bool {
	_, err := node.PublicKey(id)
	return err == nil
}
