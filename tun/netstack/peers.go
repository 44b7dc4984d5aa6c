package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// Peers is what the stack asks of the tunnel around it. The methods are called by many goroutines, and don't wait.
type Peers interface {
	// PeerAddresses returns the addresses inside the tunnel of the peer with that name, none if there is no such peer.
	PeerAddresses(name string) []netip.Addr
	// Routed reports whether a peer has the address among its allowed IPs: WireGuard drops all other packets without a word.
	Routed(netip.Addr) bool
	// Reason says, for people, which peer has the address and what keeps it from being reached, "" if nothing is known.
	Reason(netip.Addr) string
}

// ErrNoRoute says that WireGuard has nobody to send to.
var ErrNoRoute = errors.New("not in the tunnel: no peer has the address in its AllowedIPs")

// UsePeers lets names of peers be resolved before the DNS servers are asked, and has connections to addresses that no peer has fail at
// once. It is to be called before the stack is used.
func (s *Stack) UsePeers(p Peers) { s.peers = p }

// routed reports whether packets to an address come anywhere.
func (s *Stack) routed(a netip.Addr) bool { return s.peers == nil || s.own[a] || s.peers.Routed(a) }

// reason is what is known of a host that did not answer, in parentheses.
func (s *Stack) reason(host string) string {
	if s.peers == nil {
		return ""
	}
	addresses := s.peers.PeerAddresses(host)
	if a, err := netip.ParseAddr(host); err == nil {
		addresses = []netip.Addr{a}
	}
	for _, a := range addresses {
		if why := s.peers.Reason(a); why != "" {
			return " (" + why + ")"
		}
	}
	return ""
}

// gvisorErrors are the errors that gVisor's connections give as text alone, with those of package net.
var gvisorErrors = map[string]error{
	(&tcpip.ErrConnectionRefused{}).String():  syscall.ECONNREFUSED,
	(&tcpip.ErrHostUnreachable{}).String():    syscall.EHOSTUNREACH,
	(&tcpip.ErrNetworkUnreachable{}).String(): syscall.ENETUNREACH,
	(&tcpip.ErrTimeout{}).String():            syscall.ETIMEDOUT,
}

// standardError replaces a failure to connect by its standard form, as far as there is one.
func standardError(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		if standard := gvisorErrors[op.Err.Error()]; standard != nil {
			return standard
		}
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
