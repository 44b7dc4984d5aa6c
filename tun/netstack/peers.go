package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// Peers is what the stack asks of the tunnel around it. The methods are called by many goroutines, and don't wait.
type Peers interface {
	// PeerAddresses returns the addresses inside the tunnel of the peer with that name, none if there is no such peer.
	PeerAddresses(name string) []netip.Addr
	// Routed reports whether a peer has the address among its allowed IPs: WireGuard drops all other packets without a word.
	Routed(netip.Addr) bool
	// Reason says, for people, which peer has the address and what keeps it from being reached, nil if nothing is known. It is lasting
	// unless the peer is one that is not looked for before there are packets.
	Reason(netip.Addr) (why error, lasting bool)
}

// ErrNoRoute says that WireGuard has nobody to send to.
var ErrNoRoute = errors.New("not in the tunnel: no peer has the address in its AllowedIPs")

// UsePeers lets names of peers be resolved before the DNS servers are asked, and has connections to addresses that no peer has fail at
// once. It is to be called before the stack is used.
func (s *Stack) UsePeers(p Peers) { s.peers = p }

// routed reports whether packets to an address come anywhere.
func (s *Stack) routed(a netip.Addr) bool { return s.peers == nil || s.own[a] || s.peers.Routed(a) }

const (
	// downAfter is how long DialPromptly waits for an answer from a peer that is known to be down: a peer may be just about to connect.
	// downCheck is the time between two looks from then on.
	downAfter = 3 * time.Second
	downCheck = time.Second
)

// noAnswer is a time-out, with what is known of the peer.
type noAnswer struct {
	after time.Duration
	why   error // nil: nothing
}

func (e *noAnswer) Error() string {
	unit := time.Second
	if e.after < unit {
		unit /= 10
	}
	text := fmt.Sprintf("no answer within %v", e.after.Round(unit))
	if e.why != nil {
		text += " (" + e.why.Error() + ")"
	}
	return text
}

func (e *noAnswer) Unwrap() error        { return e.why }
func (e *noAnswer) Timeout() bool        { return true }
func (e *noAnswer) Temporary() bool      { return true }
func (e *noAnswer) Is(target error) bool { return target == context.DeadlineExceeded }

func (s *Stack) noAnswer(a netip.Addr, since time.Time) error {
	e := &noAnswer{after: time.Since(since)}
	if s.peers != nil {
		e.why, _ = s.peers.Reason(a)
	}
	return e
}

// down reports whether a peer is known not to answer for as long as anybody would wait.
func (s *Stack) down(a netip.Addr) bool {
	if s.peers == nil {
		return false
	}
	why, lasting := s.peers.Reason(a)
	return why != nil && lasting
}

// watch calls back, once, when the peer that has the address is known to be down after some time, before ctx ends.
func (s *Stack) watch(ctx context.Context, a netip.Addr, patience time.Duration, down func(error)) {
	if s.peers == nil {
		return
	}
	start := time.Now()
	look := time.NewTimer(patience)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		if s.down(a) {
			down(s.noAnswer(a, start))
			return
		}
		look.Reset(downCheck)
	}
}

// gvisorErrors are the errors that gVisor gives as text alone, with those of package net.
var gvisorErrors = map[string]error{
	(&tcpip.ErrBadLocalAddress{}).String():    syscall.EADDRNOTAVAIL,
	(&tcpip.ErrClosedForSend{}).String():      syscall.EPIPE,
	(&tcpip.ErrConnectionRefused{}).String():  syscall.ECONNREFUSED,
	(&tcpip.ErrConnectionReset{}).String():    syscall.ECONNRESET,
	(&tcpip.ErrHostUnreachable{}).String():    syscall.EHOSTUNREACH,
	(&tcpip.ErrNetworkUnreachable{}).String(): syscall.ENETUNREACH,
	(&tcpip.ErrPortInUse{}).String():          syscall.EADDRINUSE,
	(&tcpip.ErrTimeout{}).String():            syscall.ETIMEDOUT,
}

// standardError replaces what a failure of gVisor's is about by its standard form, as far as there is one.
func standardError(err error) error {
	text := err.Error()
	if op := new(net.OpError); errors.As(err, &op) && op.Err != nil {
		text = op.Err.Error()
	}
	if standard := gvisorErrors[text]; standard != nil {
		return standard
	}
	return err
}

// failure is why a proxy could not connect, as clients are told.
type failure uint8

const (
	failedOther failure = iota
	failedRoute         // nobody in the tunnel has the address
	failedName          // there is no such name, or nobody to ask
	failedRefusal
	failedTimeout
)

// failureOf classifies an error of DialContext. Of several addresses, the one that came furthest counts.
func failureOf(err error) failure {
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return failedRefusal
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout(), errors.Is(standardError(err), syscall.ETIMEDOUT):
		return failedTimeout
	case errors.As(err, &dns):
		return failedName
	case errors.Is(err, ErrNoRoute), errors.Is(err, errNoAddress), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return failedRoute
	}
	return failedOther
}
