package signal

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"net/url"
	"syscall"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
)

var (
	// ErrClosed says that a backend or a router was closed.
	ErrClosed = errors.New("closed")
	// ErrUnknownPeer says that a peer is not among the configured ones.
	ErrUnknownPeer = errors.New("not a configured peer")
	// ErrTooLarge says that an envelope breaks proto.MaxEnvelopeSize.
	ErrTooLarge = errors.New("envelope too large")
)

// Backend carries sealed envelopes between peers. It may lose, duplicate and reorder them. All methods are safe for concurrent use.
type Backend interface {
	// Publish hands an envelope over for the peer and returns once that is done or has failed; it honours ctx. It does not
	// keep the slice. A peer that is not configured, an envelope above [proto.MaxEnvelopeSize] and a closed backend are errors.
	Publish(ctx context.Context, to key.Public, envelope []byte) error

	// SetPeers replaces the set of configured peers: nobody else is listened to or dialled.
	SetPeers(peers []key.Public)

	// Status says whether the backend can carry anything now. It is cheap.
	Status() Status

	// Close is idempotent and waits for the backend's goroutines; the sink is not called afterwards.
	Close() error
}

// Status is one backend's state.
type Status struct {
	Backend   string // "libp2p"
	Connected bool
	Detail    string // in words, with the cause if not connected
}

// Sink is what a backend reports to. No method blocks.
type Sink interface {
	// Deliver takes an envelope that arrived; the slice is the callee's from then on.
	Deliver(envelope []byte)

	// PeerAvailable says that the peer can be reached now: what waits for it is sent again at once.
	PeerAvailable(peer key.Public)

	// ICEServersChanged says that the result of [ICEServerSource.ICEServers] changed.
	ICEServersChanged()
}

// ICEServerSource is what a [Backend] implements too if it learns of STUN and TURN servers.
type ICEServerSource interface {
	// ICEServers returns the servers whose credentials are valid now. It is cheap.
	ICEServers() []proto.ICEServer
}

// Reacher is what a [Backend] implements too if it knows of peers that it can't reach at present.
type Reacher interface {
	// Reach returns nil if Publish to the peer may work now, else at once what Publish would fail with; once that becomes nil, the sink is
	// told by PeerAvailable. It spares an envelope, most of whose cost is the seal, or a whole session. It is cheap.
	Reach(peer key.Public) error
}

// PeerChanger is what a [Backend] implements too if a change of few peers costs it less than SetPeers with all of them.
type PeerChanger interface {
	// ChangePeers adds peers to the set of SetPeers and removes others, none of which is both. Peers that are there already may be
	// added again, and others removed that are not there. It does not keep the slices.
	ChangePeers(added, removed []key.Public)
}

// Env is what a backend gets from the interface that it serves.
type Env struct {
	Identity key.Private // required: the interface's WireGuard key
	Sink     Sink        // required

	// Control is applied to every socket that the backend makes (fwmark, interface binding). Nil: nothing to apply.
	Control func(network, address string, c syscall.RawConn) error

	// ExcludeAddr reports the interface's own overlay addresses, which are never announced, listened on or dialled. Nil: none.
	ExcludeAddr func(netip.Addr) bool

	Logger *slog.Logger // nil: nothing is logged
}

// Factory makes a backend from all the configured lines of its kind, added up: one query each.
type Factory func(ctx context.Context, env Env, urls []url.Values) (Backend, error)
