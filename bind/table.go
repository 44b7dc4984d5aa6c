package bind

import (
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
)

// sourceTable says which peer a source belongs to. A lookup takes no lock and allocates nothing: it walks a chain of immutable
// nodes. Changes are serialized; they replace the few nodes of one chain.
//
// A source can be claimed more than once: as the remote of a selected ICE pair, which the peer has proven, and as an address of
// the configuration, which it has not. The newest proof wins. Configured claims count only while there is one of them, as with
// two nobody can know which of the two peers a datagram is from before WireGuard has authenticated it; then it gets a plain
// [Endpoint], like the datagrams of all unknown sources.
type sourceTable struct {
	seed    maphash.Seed
	buckets atomic.Pointer[[]atomic.Pointer[tableNode]]

	mu     sync.Mutex // guards all following, and every change of the buckets
	claims map[source][]claim
	size   int // nodes
}

// tableNode is immutable but for next, which only changes in nodes that no reader can reach yet.
type tableNode struct {
	key  source
	peer *PeerEndpoint
	next *tableNode
}

type claim struct {
	peer   *PeerEndpoint
	path   *Path // whose claim it is
	static bool
}

const minBuckets = 64

func newSourceTable() *sourceTable {
	t := &sourceTable{seed: maphash.MakeSeed(), claims: make(map[source][]claim)}
	b := make([]atomic.Pointer[tableNode], minBuckets)
	t.buckets.Store(&b)
	return t
}

// lookup returns the peer that the source belongs to, or nil.
func (t *sourceTable) lookup(s source) *PeerEndpoint {
	b := *t.buckets.Load()
	for n := b[t.slot(s, len(b))].Load(); n != nil; n = n.next {
		if n.key == s {
			return n.peer
		}
	}
	return nil
}

func (t *sourceTable) slot(s source, buckets int) uint64 {
	return maphash.Comparable(t.seed, s) & uint64(buckets-1)
}

// add claims the path's remote for the peer.
func (t *sourceTable) add(e *PeerEndpoint, p *Path) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := p.dst.key
	cs := slices.DeleteFunc(t.claims[s], func(c claim) bool { return c.path == p })
	t.claims[s] = append(cs, claim{peer: e, path: p, static: p.kind == pathStatic})
	t.publishLocked(s)
}

// remove takes back what add claimed.
func (t *sourceTable) remove(p *Path) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := p.dst.key
	cs := slices.DeleteFunc(t.claims[s], func(c claim) bool { return c.path == p })
	if len(cs) == 0 {
		delete(t.claims, s)
	} else {
		t.claims[s] = cs
	}
	t.publishLocked(s)
}

// winner decides between the claims to one source.
func winner(cs []claim) *PeerEndpoint {
	for _, c := range slices.Backward(cs) {
		if !c.static {
			return c.peer
		}
	}
	for _, c := range cs {
		if c.peer != cs[0].peer {
			return nil
		}
	}
	if len(cs) == 0 {
		return nil
	}
	return cs[0].peer
}

// publishLocked brings the chain of a source up to date.
func (t *sourceTable) publishLocked(s source) {
	want := winner(t.claims[s])
	if t.lookup(s) == want {
		return
	}
	b := *t.buckets.Load()
	slot := &b[t.slot(s, len(b))]
	var chain *tableNode
	for n := slot.Load(); n != nil; n = n.next {
		if n.key == s {
			t.size--
			continue
		}
		chain = &tableNode{key: n.key, peer: n.peer, next: chain}
	}
	if want != nil {
		chain = &tableNode{key: s, peer: want, next: chain}
		t.size++
	}
	slot.Store(chain)
	if t.size > len(b) {
		t.growLocked(b)
	}
}

// growLocked doubles the number of buckets. Readers go on with the old ones until the new ones are complete.
func (t *sourceTable) growLocked(old []atomic.Pointer[tableNode]) {
	b := make([]atomic.Pointer[tableNode], 2*len(old))
	for i := range old {
		for n := old[i].Load(); n != nil; n = n.next {
			slot := &b[t.slot(n.key, len(b))]
			slot.Store(&tableNode{key: n.key, peer: n.peer, next: slot.Load()})
		}
	}
	t.buckets.Store(&b)
}
