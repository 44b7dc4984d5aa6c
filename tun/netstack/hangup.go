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
	// hangUpCheck is how often HangUp looks whether what was closed has been acknowledged.
	hangUpCheck = 5 * time.Millisecond

	// hangUpProbes is how many peers HangUp asks at a time whether they know.
	hangUpProbes = 64
)

// HangUp ends all TCP connections while packets still flow, which Close can't wait for. First, what connections have to send that were closed
// is sent. Then open ones are reset, so that nobody takes half of the data for all of it. An echo request follows the resets on the same
// way: its answer says that they have arrived. All that ends with ctx at the latest; without connections there is nothing to wait for. Nothing
// new can begin from then on.
func (s *Stack) HangUp(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	tick := time.NewTicker(hangUpCheck)
	defer tick.Stop()
	for s.unfinished() && ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	var probes sync.WaitGroup
	slots := make(chan struct{}, hangUpProbes)
	for addr := range s.resetAll() {
		slots <- struct{}{}
		probes.Go(func() {
			defer func() { <-slots }()
			s.ping(ctx, addr) // whatever comes of it
		})
	}
	probes.Wait()
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
