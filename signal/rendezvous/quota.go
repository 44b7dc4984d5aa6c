package rendezvous

import (
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/wice-go/wice-go/proto/key"
)

// reservationLife is how long an admitted request counts before its allocation is made, which takes a millisecond. It ends by itself
// because a failure is not reported.
const reservationLife = 2 * time.Second

// quota counts TURN allocations.
type quota struct {
	// Constant after construction.
	total, perKey, bytesPerSecond int

	// mu guards all following.
	mu    sync.Mutex
	keys  map[key.Public]*usage
	held  map[holder]int // how many allocations a client has
	count int
}

// holder is a username and the client's address.
type holder struct{ username, src string }

type usage struct {
	live    int
	pending []time.Time // when admitted requests that have no allocation yet stop to count
	limiter *rate.Limiter
}

func newQuota(l Limits) *quota {
	return &quota{
		total: l.Allocations, perKey: l.AllocationsPerKey, bytesPerSecond: l.BytesPerSecond,
		keys: map[key.Public]*usage{}, held: map[holder]int{},
	}
}

// reserve admits a request, or not.
func (q *quota) reserve(k key.Public, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	u := q.keys[k]
	if u == nil {
		// A second's worth at once: what a batch of large packets needs.
		u = &usage{limiter: rate.NewLimiter(rate.Limit(q.bytesPerSecond), q.bytesPerSecond)}
	}
	u.pending = slices.DeleteFunc(u.pending, func(until time.Time) bool { return !now.Before(until) })
	if q.count >= q.total || u.live+len(u.pending) >= q.perKey {
		return false
	}
	u.pending = append(u.pending, now.Add(reservationLife))
	q.keys[k] = u
	return true
}

// add counts an allocation and returns the limiter of its key.
func (q *quota) add(k key.Public, username string, src net.Addr) *rate.Limiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	u := q.keys[k]
	if u == nil { // admitted long ago
		u = &usage{limiter: rate.NewLimiter(rate.Limit(q.bytesPerSecond), q.bytesPerSecond)}
		q.keys[k] = u
	}
	if len(u.pending) > 0 {
		u.pending = u.pending[1:]
	}
	u.live++
	q.count++
	q.held[holder{username, src.String()}]++
	return u.limiter
}

// remove takes back what add has counted. The client may have made another allocation by then, as one that has expired is closed before this is
// called.
func (q *quota) remove(k key.Public, username string, src net.Addr) {
	q.mu.Lock()
	defer q.mu.Unlock()
	u, h := q.keys[k], holder{username, src.String()}
	if u == nil || q.held[h] == 0 {
		return
	}
	if q.held[h]--; q.held[h] == 0 {
		delete(q.held, h)
	}
	q.count--
	if u.live--; u.live == 0 && len(u.pending) == 0 {
		delete(q.keys, k)
	}
}

// holds reports whether the client at that address has an allocation made with that username. It is asked before anything is proved,
// so it must be cheap.
func (q *quota) holds(username string, src net.Addr) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.held[holder{username, src.String()}] > 0
}
