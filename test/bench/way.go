package bench

import (
	"fmt"
	"net/netip"

	"github.com/wice-go/wice-go/test/program"
)

// way is how the packets of a tunnel have to travel.
type way struct {
	state, kind, protocol string
	local, remote         netip.Addr // local is invalid where wice-go does not know it
}

// check says what is wrong with what a wice-go says of its peer.
func (w way) check(peer program.Peer) error {
	if peer.State != w.state || peer.Path == nil || peer.Path.Kind != w.kind || peer.Path.Protocol != w.protocol {
		return fmt.Errorf("got %v, want it %s by a path that is %s over %s", peer, w.state, w.kind, w.protocol)
	}
	for _, end := range []struct {
		name, got string
		want      netip.Addr
	}{{"local", peer.Path.Local.Address, w.local}, {"remote", peer.Path.Remote.Address, w.remote}} {
		if !end.want.IsValid() {
			continue
		}
		if at, err := netip.ParseAddrPort(end.got); err != nil || at.Addr() != end.want {
			return fmt.Errorf("got the %s end at %q, want it at %v", end.name, end.got, end.want)
		}
	}
	return nil
}
