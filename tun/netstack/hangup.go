package netstack

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	// hangUpCheck is how often HangUp looks whether what was closed has been acknowledged, and what was queued is gone.
	hangUpCheck = 5 * time.Millisecond

	// hangUpProbes is how many peers HangUp asks at a time whether they know.
	hangUpProbes = 64
)

// HangUp ends all TCP connections while packets still flow, which Close can't wait for. First, what connections have to send that were closed
// is sent. Then open ones are reset, so that nobody takes half of the data for all of it. An echo request follows the resets once all that was
// queued is gone, which it would overtake; its answer says that the way is clear. What carries packets may have lost resets nevertheless, among so
// much data, and nobody would ever know: they are sent once more, and another echo request after them. All that ends with ctx at the latest;
// without connections there is nothing to wait for. Nothing new can begin from then on.
func (s *Stack) HangUp(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	await(ctx, func() bool { return !s.unfinished() })
	s.link.keepResets(true)
	remotes := s.resetAll()
	s.link.keepResets(false)
	if len(remotes) == 0 {
		return
	}
	s.follow(ctx, remotes)
	s.link.sendResets()
	s.follow(ctx, remotes)
}

// follow returns when the peers with those addresses have answered to what is sent after all that is queued now, or ctx ends.
func (s *Stack) follow(ctx context.Context, remotes map[netip.Addr]bool) {
	await(ctx, func() bool { return s.link.queued() == 0 })
	var probes sync.WaitGroup
	slots := make(chan struct{}, hangUpProbes)
	for addr := range remotes {
		slots <- struct{}{}
		probes.Go(func() {
			defer func() { <-slots }()
			s.ping(ctx, addr) // whatever comes of it
		})
	}
	probes.Wait()
}

// await returns when done does, or ctx ends.
func await(ctx context.Context, done func() bool) {
	tick := time.NewTicker(hangUpCheck)
	defer tick.Stop()
	for !done() && ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// connections calls f with each connection of TCP and its state until f returns false.
func (s *Stack) connections(f func(*tcp.Endpoint, tcp.EndpointState) bool) {
	for _, e := range s.stack.RegisteredEndpoints() {
		if ep, ok := e.(*tcp.Endpoint); ok && !f(ep, ep.EndpointState()) {
			return
		}
	}
}

// unfinished reports whether a connection that was closed, or half of it, has something left to send.
func (s *Stack) unfinished() (found bool) {
	s.connections(func(ep *tcp.Endpoint, state tcp.EndpointState) bool {
		switch state {
		case tcp.StateEstablished, tcp.StateCloseWait, tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
			found = closedForWriting(ep)
		}
		return !found
	})
	return found
}

// resetAll resets the connections, and returns to which addresses.
func (s *Stack) resetAll() map[netip.Addr]bool {
	remotes := make(map[netip.Addr]bool)
	s.connections(func(ep *tcp.Endpoint, state tcp.EndpointState) bool {
		switch state {
		case tcp.StateFinWait2:
			if closedForReading(ep) { // the other end has it all, of which a reset could take away what is not read yet
				return true
			}
		case tcp.StateEstablished, tcp.StateCloseWait, tcp.StateFinWait1:
		default:
			return true
		}
		remote, err := ep.GetRemoteAddress()
		ep.Abort()
		if ip, ok := netip.AddrFromSlice(remote.Addr.AsSlice()); ok && err == nil {
			remotes[ip.Unmap()] = true
		}
		return true
	})
	return remotes
}

// closedForWriting tells a connection whose end is sent once all that was written has been: its state changes only then.
func closedForWriting(ep *tcp.Endpoint) bool {
	_, err := ep.Write(bytes.NewReader(nil), tcpip.WriteOptions{})
	_, closed := err.(*tcpip.ErrClosedForSend)
	return closed
}

// closedForReading tells a connection that was closed from one whose other half is open still.
func closedForReading(ep *tcp.Endpoint) bool {
	_, err := ep.Read(io.Discard, tcpip.ReadOptions{Peek: true})
	_, closed := err.(*tcpip.ErrClosedForReceive)
	return closed
}
