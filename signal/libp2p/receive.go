package libp2p

import (
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/signal/libp2p/node"
)

// receiveTimeout bounds how long a peer may take to hand over one envelope.
const receiveTimeout = 10 * time.Second

// peerRate and peerBurst bound the envelopes of one peer, at twice what the router accepts of it: all peers share the router's queue, and
// one that has gone mad must not fill it.
const (
	peerRate  = 20
	peerBurst = 200
)

// receive takes one envelope from a stream. The host calls it in a goroutine for each stream.
func (b *Backend) receive(s network.Stream) {
	if !b.enter() {
		s.Reset()
		return
	}
	defer b.wg.Done()
	if _, ok := b.gater.key(s.Conn().RemotePeer()); !ok {
		s.Reset() // a bootstrap or a peer that was removed a moment ago
		return
	}
	s.SetDeadline(time.Now().Add(receiveTimeout))
	envelope, err := node.ReadFrame(s, proto.MaxEnvelopeSize)
	if err != nil {
		b.log.Debug("signaling stream failed", "peer", s.Conn().RemotePeer(), "error", err)
		s.Reset()
		return
	}
	if b.mayDeliver(s.Conn().RemotePeer()) {
		b.env.Sink.Deliver(envelope)
	}
	if _, err := s.Write([]byte{node.Ack}); err != nil {
		s.Reset()
		return
	}
	s.Close()
}

// mayDeliver reports whether a peer keeps to its rate. What is beyond is taken and dropped: an error would make the peer dial anew.
func (b *Backend) mayDeliver(id peer.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.arrivals[id]
	if l == nil {
		l = rate.NewLimiter(peerRate, peerBurst)
		b.arrivals[id] = l
	}
	return l.Allow()
}
