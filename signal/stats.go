package signal

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// DropReason is why an envelope, or a part of it, was not passed on.
type DropReason uint8

// The reasons, in the order of the checks.
const (
	DropOversize       DropReason = iota // above proto.MaxEnvelopeSize
	DropQueueFull                        // more arrives than may be opened
	DropMalformed                        // not an envelope
	DropOtherRecipient                   // for another key
	DropForged                           // the seal does not open
	DropUnknownSender                    // sealed by a key that is not a configured peer
	DropInvalid                          // the payload breaks a limit
	DropDuplicate                        // accepted already, usually through another backend
	DropStale                            // older than what was accepted already: reordered, or played again
	DropRate                             // the peer sends too often
	DropCandidate                        // a single candidate that can't or must not be used; its offer was passed on
	dropReasons
)

var dropNames = [dropReasons]string{
	DropOversize:       "oversize",
	DropQueueFull:      "queue full",
	DropMalformed:      "malformed",
	DropOtherRecipient: "other recipient",
	DropForged:         "forged",
	DropUnknownSender:  "unknown sender",
	DropInvalid:        "invalid",
	DropDuplicate:      "duplicate",
	DropStale:          "stale",
	DropRate:           "rate",
	DropCandidate:      "candidate",
}

// String returns one or two words, for logs and metrics.
func (r DropReason) String() string {
	if r < dropReasons {
		return dropNames[r]
	}
	return fmt.Sprintf("drop reason %d", uint8(r))
}

// Stats counts since the start of a [Router].
type Stats struct {
	Sent     uint64                // offers that at least one backend accepted
	Unsent   uint64                // offers that none did
	Received uint64                // envelopes that backends delivered
	Accepted uint64                // offers that were passed on
	Dropped  map[DropReason]uint64 // has every reason
}

type counters struct {
	sent, unsent, received, accepted atomic.Uint64
	dropped                          [dropReasons]atomic.Uint64
}

func (c *counters) stats() Stats {
	s := Stats{
		Sent:     c.sent.Load(),
		Unsent:   c.unsent.Load(),
		Received: c.received.Load(),
		Accepted: c.accepted.Load(),
		Dropped:  make(map[DropReason]uint64, dropReasons),
	}
	for r := range dropReasons {
		s.Dropped[r] = c.dropped[r].Load()
	}
	return s
}

// Anybody can cause drops, so that each reason may fill the log only slowly.
const (
	logEvery = 30 * time.Second
	logBurst = 3
)

// dropLog counts and logs what was dropped. It is safe for concurrent use.
type dropLog struct {
	logger   *slog.Logger
	counters *counters
	limits   [dropReasons]*rate.Limiter
	silenced [dropReasons]atomic.Uint64
}

func newDropLog(logger *slog.Logger, c *counters) *dropLog {
	l := &dropLog{logger: logger, counters: c}
	for r := range l.limits {
		l.limits[r] = rate.NewLimiter(rate.Every(logEvery), logBurst)
	}
	return l
}

// drop counts one, and logs it unless that reason was logged too often lately.
func (l *dropLog) drop(reason DropReason, args ...any) { l.dropN(1, reason, args...) }

func (l *dropLog) dropN(n int, reason DropReason, args ...any) {
	l.counters.dropped[reason].Add(uint64(n))
	if reason == DropDuplicate {
		return // with several backends it is the rule
	}
	if !l.limits[reason].Allow() {
		l.silenced[reason].Add(1)
		return
	}
	args = append([]any{"reason", reason.String()}, args...)
	if silenced := l.silenced[reason].Swap(0); silenced > 0 {
		args = append(args, "not_logged", silenced)
	}
	l.logger.Warn("signaling message dropped", args...)
}
