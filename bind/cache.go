package bind

import (
	"hash/maphash"
	"sync/atomic"
)

const (
	cacheSets = 1024
	cacheWays = 4
)

// endpointCache has the endpoints of sources that no [PeerEndpoint] claims. Anybody can send from any number of sources, so that
// its size is fixed: what does not fit displaces another entry of its set, which costs the displaced one an allocation with its
// next datagram and nothing else, as WireGuard keeps the endpoint that it uses itself. Lookups take no lock.
//
// An entry stands for a source and the local address it was received on. Thus a datagram with a forged source can't change
// where an endpoint in use sends from: it makes another endpoint, which WireGuard takes up only if the datagram is authentic.
type endpointCache struct {
	seed maphash.Seed
	next atomic.Uint32 // the way to displace next
	sets [cacheSets][cacheWays]atomic.Pointer[Endpoint]
}

func newEndpointCache() *endpointCache { return &endpointCache{seed: maphash.MakeSeed()} }

// get returns the endpoint of a source and a local address, made if need be.
func (c *endpointCache) get(s source, l local) *Endpoint {
	set := &c.sets[maphash.Comparable(c.seed, s)%cacheSets]
	for i := range set {
		if e := set[i].Load(); e != nil && e.key == s && e.from == l {
			e.stick()
			return e
		}
	}
	e := newEndpoint(s.addrPort(), l)
	set[c.next.Add(1)%cacheWays].Store(e)
	return e
}

// clearSources lets the kernel choose the sources anew.
func (c *endpointCache) clearSources() {
	for i := range c.sets {
		for j := range c.sets[i] {
			if e := c.sets[i][j].Load(); e != nil {
				e.ClearSrc()
			}
		}
	}
}
