package device

import (
	"container/list"
	"iter"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/tun/clamp"
)

// table is WireGuard's own table of peers, as far as others have to know it. A set operation edits it line by line, as wireguard-go does its
// own, so that a change costs what it touches and not what there is.
type table struct {
	routes prefixes[allowedIP] // of all peers

	mu      sync.RWMutex           // guards the following, and the changes of routes
	members map[key.Public]*member // all peers of WireGuard, with ICE or without
}

// member is one peer of the table.
type member struct {
	key   key.Public
	clamp atomic.Pointer[clamp.Peer] // of its session; nil: never limited, as of its path nothing is known

	// Guarded by the table's mu.
	allowed list.List      // of *allowedIP, in WireGuard's order; of a peer that many prefixes lead to, any can go at once
	static  netip.AddrPort // endpoint set by hand, which outlives sessions; the zero value: none
}

// allowedIP is a prefix of the one peer that has it.
type allowedIP struct {
	owner  *member
	prefix netip.Prefix  // masked
	place  *list.Element // among the owner's; guarded by the table's mu
}

// add takes in a peer that WireGuard has just made.
func (t *table) add(pk key.Public) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.members[pk] = &member{key: pk}
}

// remove forgets a peer.
func (t *table) remove(pk key.Public) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeLocked(t.members[pk])
}

func (t *table) removeLocked(m *member) {
	t.disallowAllLocked(m)
	delete(t.members, m.key)
}

// clear forgets all peers.
func (t *table) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range t.members {
		t.removeLocked(m)
	}
}

// edit calls f with a peer while it holds mu, if WireGuard has the peer, and reports that.
func (t *table) edit(pk key.Public, f func(*member)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.members[pk]
	if m != nil {
		f(m)
	}
	return m != nil
}

// allowLocked gives a peer an allowed IP, which another one may have had until then.
func (t *table) allowLocked(m *member, p netip.Prefix) {
	p = p.Masked()
	if a := t.routes.get(p); a != nil {
		a.owner.allowed.Remove(a.place)
	}
	a := &allowedIP{owner: m, prefix: p}
	a.place = m.allowed.PushBack(a)
	t.routes.set(p, a)
}

// disallowLocked takes an allowed IP from a peer, if it is the one that has it.
func (t *table) disallowLocked(m *member, p netip.Prefix) {
	p = p.Masked()
	if a := t.routes.get(p); a != nil && a.owner == m {
		m.allowed.Remove(a.place)
		t.routes.set(p, nil)
	}
}

func (t *table) disallowAllLocked(m *member) {
	for p := range m.prefixesLocked() {
		t.routes.set(p, nil)
	}
	m.allowed.Init()
}

// prefixesLocked are the allowed IPs of the peer in WireGuard's order.
func (m *member) prefixesLocked() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for e := m.allowed.Front(); e != nil && yield(e.Value.(*allowedIP).prefix); e = e.Next() {
		}
	}
}

// has reports whether WireGuard has the peer.
func (t *table) has(pk key.Public) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.members[pk] != nil
}

// static returns the endpoint of a peer that was set by hand; the zero value: none.
func (t *table) static(pk key.Public) netip.AddrPort {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if m := t.members[pk]; m != nil {
		return m.static
	}
	return netip.AddrPort{}
}

// addresses returns the single addresses among the allowed IPs of a peer, and whether WireGuard has the peer.
func (t *table) addresses(pk key.Public) (single []netip.Addr, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	m := t.members[pk]
	if m == nil {
		return nil, false
	}
	for p := range m.prefixesLocked() {
		if p.IsSingleIP() {
			single = append(single, p.Addr())
		}
	}
	return single, true
}

// clampOf returns what the clamp has to know of the peer that WireGuard sends packets for the address to, nil if they are not limited.
func (t *table) clampOf(a netip.Addr) *clamp.Peer {
	if found := t.routes.find(a); found != nil {
		return found.owner.clamp.Load()
	}
	return nil
}
