package libp2p

import (
	"fmt"
	"strings"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/wice-go/wice-go/signal"
)

// Status implements [signal.Backend].
func (b *Backend) Status() signal.Status {
	s := signal.Status{Backend: "libp2p"}
	b.mu.Lock()
	closed, localIsOn, localNet := b.closed, b.localIsOn, b.localNet
	b.mu.Unlock()
	if closed {
		s.Detail = "closed"
		return s
	}

	var parts []string
	if n := len(b.relays); n > 0 {
		up := 0
		var troubles []string
		for _, r := range b.relays {
			connected, trouble := r.status()
			if connected {
				up++
			}
			if trouble != "" {
				troubles = append(troubles, "bootstrap "+r.name+": "+trouble)
			}
		}
		s.Connected = up > 0
		parts = append(parts, fmt.Sprintf("%d of %d %s connected", up, n, plural(n, "bootstrap")))
		parts = append(parts, troubles...)
	}
	switch {
	case b.config.MDNS && localIsOn && len(b.relays) == 0:
		s.Connected = true
		parts = append(parts, "mDNS only: peers on the local network")
	case b.config.MDNS && !localIsOn && localNet != "":
		parts = append(parts, "mDNS: "+localNet)
	case !b.config.MDNS && len(b.relays) == 0:
		parts = append(parts, "neither a bootstrap nor mDNS: only peers that dial this one are reached")
	}
	if n := b.directPeers(); n > 0 && !s.Connected {
		s.Connected = true
		parts = append(parts, fmt.Sprintf("%d %s connected directly", n, plural(n, "peer")))
	}
	s.Detail = strings.Join(parts, "; ")
	return s
}

// directPeers counts configured peers with a connection.
func (b *Backend) directPeers() int {
	n := 0
	for _, id := range b.host.Network().Peers() {
		if _, ok := b.gater.key(id); ok && b.host.Network().Connectedness(id) == network.Connected {
			n++
		}
	}
	return n
}

func plural(n int, s string) string {
	if n == 1 {
		return s
	}
	return s + "s"
}
