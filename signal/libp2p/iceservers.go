package libp2p

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/signal/libp2p/node"
)

const (
	fetchTimeout = 5 * time.Second
	fetchRetry   = 5 * time.Second // after a failure that may pass
	maxRenew     = time.Hour       // how old an answer may get

	never = 365 * 24 * time.Hour
)

// fetch asks the bootstrap for STUN and TURN servers, and returns when to ask again; 0: never, since it has none to offer.
//
// The sink is told when other servers are named than before, and when there were none that are still valid: new credentials for
// the same servers matter to nobody before the next gathering, which asks anyway.
func (r *relay) fetch(ctx context.Context) time.Duration {
	got, err := r.request(ctx)
	var unsupported multistream.ErrNotSupported[protocol.ID]
	if errors.As(err, &unsupported) {
		return 0
	}
	if err != nil {
		r.b.log.Debug("no ICE servers from the bootstrap", "bootstrap", r.name, "error", err)
		return fetchRetry
	}
	now := time.Now()
	if got.Expires.IsZero() { // never
		got.Expires = now.Add(never)
	}
	r.mu.Lock()
	var before []proto.ICEServer
	if now.Before(r.expires) {
		before = r.servers
	}
	changed := !slices.EqualFunc(before, got.Servers, sameServer)
	r.servers, r.expires = got.Servers, got.Expires
	r.mu.Unlock()
	if changed {
		r.b.env.Sink.ICEServersChanged()
	}
	return min(max(got.Expires.Sub(now)/2, minRenew), maxRenew)
}

func sameServer(a, b proto.ICEServer) bool {
	a.Username, a.Password, b.Username, b.Password = "", "", "", ""
	return a == b
}

func (r *relay) request(ctx context.Context) (*proto.ICECredentials, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	s, err := r.b.host.NewStream(ctx, r.info.ID, node.ICEServersProtocol)
	if err != nil {
		return nil, err
	}
	defer s.Reset()
	s.SetDeadline(time.Now().Add(fetchTimeout))
	if err := s.CloseWrite(); err != nil {
		return nil, err
	}
	b, err := node.ReadFrame(s, proto.MaxICECredentialsSize)
	if err != nil {
		return nil, err
	}
	return proto.UnmarshalICECredentials(b)
}

// iceServers returns what is valid now. It outlives the connection to the bootstrap that named it.
func (r *relay) iceServers(now time.Time) []proto.ICEServer {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !now.Before(r.expires) {
		return nil
	}
	return r.servers
}
