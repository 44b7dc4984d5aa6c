package rendezvous

import (
	"time"

	"github.com/wice-go/wice-go/signal/libp2p/node"
)

// Limits bound what the server's clients may use. Zero fields get the value of [DefaultLimits].
type Limits struct {
	Node node.Limits // of the libp2p node; all of its fields, or none

	Reservations      int           // clients that can be reached through the circuit relay
	ReservationsPerIP int           // ... from one IP address
	CircuitsPerClient int           // open circuits of one client, both directions
	CircuitBytes      int64         // through one circuit, each direction
	CircuitDuration   time.Duration // after which a circuit is closed

	Allocations         int           // TURN allocations in all
	AllocationsPerKey   int           // TURN allocations of one WireGuard key
	BytesPerSecond      int           // relayed by TURN for one WireGuard key, both directions together
	CredentialsLifetime time.Duration // of TURN credentials; an allocation made in time may be refreshed later
	TURNConns           int           // TCP connections to the TURN server
	TURNConnsPerIP      int
	TURNIdle            time.Duration // after which a silent TCP connection is closed
}

// DefaultLimits suit a network of some thousand peers on a small server.
func DefaultLimits() Limits {
	return Limits{
		Node: node.Limits{
			Conns:          8192,      // two for each client: the old one may linger after a restart
			Streams:        32768,     // a few short ones for each
			MemoryBytes:    512 << 20, // an upper bound; a quiet client takes some 50 KB
			ConnsPerPeer:   16,        // a client dials all addresses of the server at once
			StreamsPerPeer: 1024,      // one for each circuit that others open to it
			ConnsPerIP:     1024,      // an office behind one NAT
			ConnRatePerIP:  50,        // all of whom come back at once when the server was restarted
			ConnBurstPerIP: 1024,
		},
		Reservations:      4096, // libp2p's default of 128 is meant for volunteers
		ReservationsPerIP: 512,  // an office behind one NAT; libp2p's default is 8
		CircuitsPerClient: 512,  // a hub that was restarted talks to all its peers at once; libp2p's default is 16
		CircuitBytes:      1 << 20,
		CircuitDuration:   10 * time.Minute, // offers only: at most 16 KiB each, so this is plenty for one negotiation after another

		Allocations:         16384,     // sockets; the operating system's limit for open files may come first
		AllocationsPerKey:   64,        // an agent makes one for each transport and peer
		BytesPerSecond:      128 << 20, // a gigabit: one key can't take more than a usual server's line
		CredentialsLifetime: time.Hour,
		TURNConns:           4096,
		TURNConnsPerIP:      512,
		TURNIdle:            15 * time.Minute, // longer than an allocation lives without a refresh (10 minutes)
	}
}

// orDefault fills in what is zero.
func (l Limits) orDefault() Limits {
	d := DefaultLimits()
	if l.Node == (node.Limits{}) {
		l.Node = d.Node
	}
	fill(&l.Reservations, d.Reservations)
	fill(&l.ReservationsPerIP, d.ReservationsPerIP)
	fill(&l.CircuitsPerClient, d.CircuitsPerClient)
	fill(&l.CircuitBytes, d.CircuitBytes)
	fill(&l.CircuitDuration, d.CircuitDuration)
	fill(&l.Allocations, d.Allocations)
	fill(&l.AllocationsPerKey, d.AllocationsPerKey)
	fill(&l.BytesPerSecond, d.BytesPerSecond)
	fill(&l.CredentialsLifetime, d.CredentialsLifetime)
	fill(&l.TURNConns, d.TURNConns)
	fill(&l.TURNConnsPerIP, d.TURNConnsPerIP)
	fill(&l.TURNIdle, d.TURNIdle)
	return l
}

func fill[T comparable](v *T, d T) {
	if *v == *new(T) {
		*v = d
	}
}
