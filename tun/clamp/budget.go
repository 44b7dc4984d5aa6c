package clamp

import (
	"hash/maphash"
	"net/netip"
	"time"
)

const (
	// messageRate and messageBurst limit the messages about one source and destination. TCP needs one; those that are lost on the
	// way back to a host behind this one are repeated for each packet.
	messageRate  = 10 // a second
	messageBurst = 10

	budgetSlots = 256
)

// budgets limits the rate of messages. Pairs of addresses share a slot by chance; the one that comes later begins anew.
type budgets struct {
	seed  maphash.Seed
	slots []budget
}

type budget struct {
	pair  [2]netip.Addr
	spent float64
	last  time.Time
}

// take reports whether there may be one more message about packets from src to dst.
func (s *budgets) take(src, dst netip.Addr) bool {
	if s.slots == nil {
		s.seed, s.slots = maphash.MakeSeed(), make([]budget, budgetSlots)
	}
	pair, now := [2]netip.Addr{src, dst}, time.Now()
	b := &s.slots[maphash.Comparable(s.seed, pair)%budgetSlots]
	if b.pair != pair {
		*b = budget{pair: pair, last: now}
	}
	b.spent = max(0, b.spent-messageRate*now.Sub(b.last).Seconds())
	b.last = now
	if b.spent+1 > messageBurst {
		return false
	}
	b.spent++
	return true
}
