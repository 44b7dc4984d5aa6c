package signal

import (
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
)

// An envelope's way: Deliver -> queue -> work -> receive -> OnOffer.

// remembered is how many accepted timestamps of a peer are kept to tell the copy that a second backend brings late from a recording. Both are
// dropped; the numbers and the log are better for it.
const remembered = 16

// clockSlack is how far apart clocks may be before the log mentions it.
const clockSlack = 5 * time.Minute

// peer is what the worker knows of a configured peer; only the worker uses it.
type peer struct {
	limit  *rate.Limiter
	latest proto.Timestamp
	recent [remembered]proto.Timestamp
	next   int // index in recent
}

func (p *peer) accept(ts proto.Timestamp) {
	p.latest = ts
	p.recent[p.next] = ts
	p.next = (p.next + 1) % remembered
}

// Deliver implements [Sink].
func (r *Router) Deliver(envelope []byte) {
	if r.closing.Load() {
		return
	}
	r.counters.received.Add(1)
	if len(envelope) > proto.MaxEnvelopeSize {
		r.log.drop(DropOversize, "bytes", len(envelope))
		return
	}
	select {
	case r.queue <- envelope:
	default:
		r.log.drop(DropQueueFull)
	}
}

// PeerAvailable implements [Sink].
func (r *Router) PeerAvailable(peer key.Public) {
	r.mu.Lock()
	if _, ok := r.peers[peer]; ok {
		r.available[peer] = struct{}{}
	}
	r.mu.Unlock()
	r.notify()
}

// ICEServersChanged implements [Sink].
func (r *Router) ICEServersChanged() {
	r.mu.Lock()
	r.serversChange = true
	r.mu.Unlock()
	r.notify()
}

func (r *Router) notify() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// work is the one goroutine that calls the handlers. While too many seals were opened it leaves the queue alone, but not the events.
func (r *Router) work() {
	pace := rate.NewLimiter(openRate, openBurst)
	resume := time.NewTimer(0)
	defer resume.Stop()
	var queue chan []byte // nil until resume fires
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-resume.C:
			queue = r.queue
		case <-r.wake:
			r.handleEvents()
		case envelope := <-queue:
			if !r.receive(envelope) {
				continue
			}
			if delay := pace.Reserve().Delay(); delay > 0 {
				queue = nil
				resume.Reset(delay)
			}
		}
	}
}

func (r *Router) handleEvents() {
	r.mu.Lock()
	serversChange := r.serversChange
	r.serversChange = false
	available := make([]key.Public, 0, len(r.available))
	for k := range r.available {
		available = append(available, k)
	}
	clear(r.available)
	r.mu.Unlock()
	slices.SortFunc(available, key.Public.Compare)
	if serversChange && !r.closing.Load() {
		r.options.OnICEServersChanged()
	}
	for _, k := range available {
		if r.closing.Load() {
			return
		}
		r.options.OnPeerAvailable(k)
	}
}

// receive takes an envelope through the checks of the package comment. It reports whether it tried to open the seal, which is what costs.
func (r *Router) receive(b []byte) (opened bool) {
	envelope, err := proto.UnmarshalEnvelope(b)
	if err != nil {
		r.log.drop(DropMalformed, "error", err)
		return false
	}
	if envelope.Recipient != r.sealer.public {
		r.log.drop(DropOtherRecipient, "recipient", envelope.Recipient.Short())
		return false
	}
	from, payload, err := r.sealer.open(envelope)
	if err != nil {
		r.log.drop(DropForged, "error", err)
		return true
	}
	r.mu.Lock()
	p, known := r.peers[from]
	if known && p == nil {
		p = &peer{limit: rate.NewLimiter(peerRate, peerBurst)}
		r.peers[from] = p
	}
	r.mu.Unlock()
	if !known {
		r.log.drop(DropUnknownSender, "peer", from.Short())
		return true
	}
	offer, ts, err := proto.UnmarshalOffer(payload)
	if err != nil {
		r.log.drop(DropInvalid, "peer", from.Short(), "error", err)
		return true
	}
	if !r.fresh(from, p, ts) {
		return true
	}
	if !p.limit.Allow() {
		r.log.drop(DropRate, "peer", from.Short())
		return true
	}
	p.accept(ts)
	if offer.Unusable > 0 {
		r.log.dropN(offer.Unusable, DropCandidate, "peer", from.Short(), "candidates", offer.Unusable)
	}
	if r.closing.Load() {
		return true
	}
	r.counters.accepted.Add(1)
	r.options.OnOffer(from, offer)
	return true
}

func (r *Router) fresh(from key.Public, p *peer, ts proto.Timestamp) bool {
	switch {
	case ts.Compare(p.latest) > 0:
		return true
	case slices.Contains(p.recent[:], ts):
		r.log.drop(DropDuplicate)
		return false
	}
	args := []any{"peer", from.Short(), "behind", p.latest.Time().Sub(ts.Time())}
	if ahead := time.Until(p.latest.Time()); ahead > clockSlack {
		args = append(args, "hint", "an earlier offer of the peer is ahead of our clock by "+ahead.Round(time.Second).String()+
			": if the peer's clock was set back, restart this side to hear it again")
	}
	r.log.drop(DropStale, args...)
	return false
}
