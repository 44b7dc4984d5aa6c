package node

import (
	"math"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/x/rate"
)

// Limits are what a host may use of the machine.
type Limits struct {
	Conns          int     // connections, both directions together
	Streams        int     // streams, over all connections
	MemoryBytes    int64   // buffers that libp2p accounts for
	ConnsPerPeer   int     // connections to one peer ID
	StreamsPerPeer int     // streams with one peer ID
	ConnsPerIP     int     // connections with one IPv4 address or IPv6 /56
	ConnRatePerIP  float64 // new connections per second from one IPv4 address or IPv6 /56
	ConnBurstPerIP int
}

// NewResources turns limits into libp2p's resource manager. Loopback addresses have no limit per address, since everything on one
// machine shares them. The total limits count for them too.
func NewResources(l Limits) (network.ResourceManager, error) {
	total := rcmgr.ResourceLimits{
		Conns: rcmgr.LimitVal(l.Conns), ConnsInbound: rcmgr.LimitVal(l.Conns), ConnsOutbound: rcmgr.LimitVal(l.Conns),
		FD:      rcmgr.LimitVal(l.Conns),
		Streams: rcmgr.LimitVal(l.Streams), StreamsInbound: rcmgr.LimitVal(l.Streams), StreamsOutbound: rcmgr.LimitVal(l.Streams),
		Memory: rcmgr.LimitVal64(l.MemoryBytes),
	}
	// What is not yet authenticated or negotiated: a quarter, so that strangers can't take everything.
	transient := rcmgr.ResourceLimits{
		Conns: part(l.Conns), ConnsInbound: part(l.Conns), ConnsOutbound: part(l.Conns), FD: part(l.Conns),
		Streams: part(l.Streams), StreamsInbound: part(l.Streams), StreamsOutbound: part(l.Streams),
		Memory: rcmgr.LimitVal64(max(l.MemoryBytes/4, 1)),
	}
	perPeer := rcmgr.ResourceLimits{
		Conns: rcmgr.LimitVal(l.ConnsPerPeer), ConnsInbound: rcmgr.LimitVal(l.ConnsPerPeer), ConnsOutbound: rcmgr.LimitVal(l.ConnsPerPeer),
		FD:      rcmgr.LimitVal(l.ConnsPerPeer),
		Streams: rcmgr.LimitVal(l.StreamsPerPeer), StreamsInbound: rcmgr.LimitVal(l.StreamsPerPeer), StreamsOutbound: rcmgr.LimitVal(l.StreamsPerPeer),
		Memory: rcmgr.LimitVal64(max(l.MemoryBytes/8, 1)),
	}
	config := rcmgr.PartialLimitConfig{System: total, Transient: transient, PeerDefault: perPeer}
	addressRate := rate.Limit{RPS: l.ConnRatePerIP, Burst: l.ConnBurstPerIP}
	return rcmgr.NewResourceManager(
		rcmgr.NewFixedLimiter(config.Build(rcmgr.InfiniteLimits)),
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: l.ConnsPerIP}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: l.ConnsPerIP}},
		),
		rcmgr.WithNetworkPrefixLimit(
			[]rcmgr.NetworkPrefixLimit{{Network: netip.MustParsePrefix("127.0.0.0/8"), ConnCount: math.MaxInt}},
			[]rcmgr.NetworkPrefixLimit{{Network: netip.MustParsePrefix("::1/128"), ConnCount: math.MaxInt}},
		),
		rcmgr.WithConnRateLimiters(&rate.Limiter{
			NetworkPrefixLimits: []rate.PrefixLimit{
				{Prefix: netip.MustParsePrefix("127.0.0.0/8")},
				{Prefix: netip.MustParsePrefix("::1/128")},
			},
			SubnetRateLimiter: rate.SubnetLimiter{
				IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: addressRate}},
				IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 56, Limit: addressRate}},
				GracePeriod:      rateMemory,
			},
		}),
	)
}

func part(n int) rcmgr.LimitVal { return rcmgr.LimitVal(max(n/4, 1)) }
