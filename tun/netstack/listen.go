package netstack

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// Listen accepts connections as [net.Listen] does, inside the tunnel: network is tcp, and the host of the address is one of the stack's
// addresses, or left out for all of them. Port 0 takes a free one.
func (s *Stack) Listen(network, address string) (net.Listener, error) {
	local, err := s.local(network, "tcp", address)
	if err != nil {
		return nil, err
	}
	return s.ListenTCP(local)
}

// ListenPacket receives datagrams as [net.ListenPacket] does, inside the tunnel: network is udp, and the address as for [Stack.Listen].
func (s *Stack) ListenPacket(network, address string) (net.PacketConn, error) {
	local, err := s.local(network, "udp", address)
	if err != nil {
		return nil, err
	}
	return s.ListenUDP(local)
}

// local reads an address to listen on.
func (s *Stack) local(network, want, address string) (netip.AddrPort, error) {
	fail := func(err error) (netip.AddrPort, error) {
		return netip.AddrPort{}, &net.OpError{Op: "listen", Net: network, Err: fmt.Errorf("%q: %w", address, err)}
	}
	if network != want {
		return fail(fmt.Errorf("%w: want %s", net.UnknownNetworkError(network), want))
	}
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return fail(err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return fail(fmt.Errorf("port %q is not a number up to 65535", portText))
	}
	ip := s.wildcard()
	if host != "" {
		if ip, err = netip.ParseAddr(host); err != nil {
			return fail(fmt.Errorf("%q is not an address of this end of the tunnel", host))
		}
	}
	return netip.AddrPortFrom(ip, uint16(port)), nil
}
