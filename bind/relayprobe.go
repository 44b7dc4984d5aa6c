package bind

import (
	"errors"
	"net/netip"
	"time"
)

// errNoChannel says that the TURN client has not bound the channel to the peer yet.
var errNoChannel = errors.New("no channel to the peer")

// relayRoute sends the probes of a path through our own relay, as [checkRoute] does those of a direct one: the peer sees checks that come
// from the relay. The narrowest place may be on either side of it.
type relayRoute struct {
	socket *TURNSocket
	bind   *Bind
	path   *Path
	by     Credentials
}

// bound implements [probeRoute]: what the kernel knows of the way to the server.
func (r *relayRoute) bound() (int, error) {
	server := r.socket.server.Load()
	if server == nil {
		return 0, errNoChannel
	}
	mtu, err := routeMTU(netip.Addr{}, server.dst, r.bind.ControlSocket)
	return mtu - r.overhead(), err
}

// overhead implements [probeRoute].
func (r *relayRoute) overhead() int {
	if server := r.socket.server.Load(); server != nil && server.dst.Addr().Is6() {
		return ipv6Header + udpHeader + channelHeaderSize
	}
	return ipv4Header + udpHeader + channelHeaderSize
}

// probe implements [probeRoute].
func (r *relayRoute) probe(size int, answered func()) error {
	server, number := r.socket.server.Load(), r.socket.channels.number(r.path.remote)
	if server == nil || number == 0 {
		return errNoChannel
	}
	b, err := buildCheck(r.by, size)
	if err != nil {
		return err
	}
	now := time.Now()
	r.socket.probesMu.Lock()
	r.socket.probes.put(transactionID(b), transaction{caller: &check{by: r.by, answered: answered}, expires: now.Add(transactionLifetime)}, now)
	r.socket.probesMu.Unlock()
	_, err = r.socket.sock.send([][]byte{b}, server, number)
	return err
}

// answersProbe reports whether data, of a channel, answers a probe. Such an answer means nothing to the client.
func (c *carrier) answersProbe(data []byte) bool {
	if classify(data) != kindSTUN || classOf(data) != classSuccess {
		return false
	}
	c.probesMu.Lock()
	t, ok := c.probes.take(transactionID(data), netip.AddrPort{}, time.Now())
	c.probesMu.Unlock()
	if ok {
		t.caller.answer(data, netip.Addr{})
	}
	return ok
}
