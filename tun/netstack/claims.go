package netstack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Claims reports whether the stack has a connection, a listener or a ping that a packet is for: one of a transport protocol (IANA's number) from
// remote to local. For answers to a ping, the port of local is the identifier. It serves those who share the stack's addresses.
func (s *Stack) Claims(protocol uint8, local, remote netip.AddrPort) bool {
	id := stack.TransportEndpointID{
		LocalPort:     local.Port(),
		LocalAddress:  tcpip.AddrFromSlice(local.Addr().AsSlice()),
		RemotePort:    remote.Port(),
		RemoteAddress: tcpip.AddrFromSlice(remote.Addr().AsSlice()),
	}
	if protocol == uint8(header.ICMPv4ProtocolNumber) || protocol == uint8(header.ICMPv6ProtocolNumber) {
		id.RemotePort = 0
	}
	return s.stack.FindTransportEndpoint(protocolOf(local.Addr()), tcpip.TransportProtocolNumber(protocol), id, nicID) != nil
}
