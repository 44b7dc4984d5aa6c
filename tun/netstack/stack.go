// Package netstack is a TUN device without the kernel: a TCP/IP stack in the process (gVisor's), for tunnels of users
// who may not make network interfaces, and for containers without a TUN driver.
//
// wireguard-go reads from and writes to [Stack.Device] as if it were the kernel's; the program dials and listens on the
// stack as if it were package net:
//
//	DialContext ... -> gVisor -> link -> Device.Read -> wireguard-go -> peer
//	peer -> wireguard-go -> Device.Write -> gVisor -> Accept, Read
//
// It stands on gVisor itself rather than on wireguard-go's package of the same name, which hides the stack's options,
// moves one packet at a time, and may write to a closed channel when it is closed under traffic.
//
// The stack answers ICMP echo requests. It neither forwards packets nor listens on an address that is not its own.
package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	wgtun "golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	// nicID is the number of the one interface.
	nicID = 1
	// firstPort is the first of the ports that connections are given which ask for none, as on Linux; maxPort is the last.
	firstPort = 32768
	maxPort   = 65535
	// minMTU and maxMTU bound the MTU, in bytes: what IPv4 permits (RFC 791), and what a packet can be.
	minMTU = 68
	maxMTU = 65535
	// backlog is how many connections may wait for Accept. A listener often stands for a whole service behind it.
	backlog = 4096
	// tcpBuffer and maxTCPBuffer are the sizes, in bytes, that the buffers of a TCP connection start with and can grow
	// to. 4 MiB are 1 Gbit/s at a round trip of 32 ms. They are limits, not allocations.
	tcpBuffer    = 1 << 20
	maxTCPBuffer = 4 << 20
	// timeWait is how long a connection is remembered that this side has ended first: less than keepAliveIdle. gVisor sends its keep-alive
	// probes even then, and a listener at the other end, if it is gVisor's too, takes some of them for the end of a handshake with SYN cookies.
	timeWait = tcpip.TCPTimeWaitTimeoutOption(10 * time.Second)
	// finWait is how long a connection that was closed is remembered for the other side's end: less than timeWait. A side that has sent its end
	// twice is in FIN-WAIT-2 with gVisor although both have ended. The other may use its port anew after timeWait, and what gVisor does then with
	// several segments in a moment can be a refusal.
	finWait = tcpip.TCPLingerTimeoutOption(5 * time.Second)
)

// Stack is one TCP/IP stack with one interface. All methods are safe for concurrent use.
type Stack struct {
	// Constant after New.
	stack      *stack.Stack
	link       *link
	device     *tunDevice
	dns        []netip.Addr
	own        map[netip.Addr]bool
	has4, has6 bool            // it has addresses of that family
	peers      Peers           // nil: every address is taken for routed
	ctx        context.Context // ends with Close
	cancel     context.CancelFunc
	closing    sync.Once

	mu        sync.Mutex // guards the following
	closed    bool
	listeners map[*listener]struct{} // open ones, which gVisor does not wake by itself
}

// New makes a stack with the given addresses, which asks the given servers for names. The MTU is in bytes.
func New(addresses []netip.Addr, dns []netip.Addr, mtu int) (*Stack, error) {
	if mtu < minMTU || mtu > maxMTU {
		return nil, fmt.Errorf("netstack: MTU %d is not within %d and %d", mtu, minMTU, maxMTU)
	}
	s := &Stack{
		stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
			HandleLocal:        true, // packets to an own address stay inside
		}),
		link:      newLink(mtu),
		dns:       slices.Clone(dns),
		own:       make(map[netip.Addr]bool),
		listeners: make(map[*listener]struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.device = newDevice(s, mtu)
	if err := s.setUp(addresses); err != nil {
		return nil, errors.Join(fmt.Errorf("netstack: %w", err), s.Close())
	}
	return s, nil
}

func (s *Stack) setUp(addresses []netip.Addr) error {
	if err := s.tune(); err != nil {
		return err
	}
	if err := s.stack.CreateNIC(nicID, s.link); err != nil {
		return fmt.Errorf("create interface: %s", err)
	}
	for _, a := range addresses {
		a = a.Unmap().WithZone("")
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("%v cannot be the address of an interface", a)
		}
		address := tcpip.ProtocolAddress{Protocol: protocolOf(a), AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix()}
		if err := s.stack.AddProtocolAddress(nicID, address, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("add address %s: %s", a, err)
		}
		s.own[a] = true
		s.has4 = s.has4 || a.Is4()
		s.has6 = s.has6 || a.Is6()
	}
	if s.has4 {
		s.stack.AddRoute(tcpip.Route{Destination: header.IPv4EmptySubnet, NIC: nicID})
	}
	if s.has6 {
		s.stack.AddRoute(tcpip.Route{Destination: header.IPv6EmptySubnet, NIC: nicID})
	}
	return nil
}

// tune sets what gVisor's defaults do not suit. SACK is off by default, and without it a lost packet costs a round trip
// each. RACK is on, and takes late acknowledgements for losses, as every batch of a tunnel makes them; duplicate
// acknowledgements find losses without that.
func (s *Stack) tune() error {
	wait, lingering := timeWait, finWait
	sack, recovery, moderate := tcpip.TCPSACKEnabled(true), tcpip.TCPRecovery(0), tcpip.TCPModerateReceiveBufferOption(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpBuffer, Max: maxTCPBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpBuffer, Max: maxTCPBuffer}
	for _, option := range []tcpip.SettableTransportProtocolOption{&wait, &lingering, &sack, &recovery, &moderate, &receive, &send} {
		if err := s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("set TCP option %T: %s", option, err)
		}
	}
	// Those below are for others that share the addresses: package share.
	if err := s.stack.SetPortRange(firstPort, maxPort); err != nil {
		return fmt.Errorf("set range of ports: %s", err)
	}
	return nil
}

// Device is the end for wireguard-go. Closing it closes the stack, and the other way round.
func (s *Stack) Device() wgtun.Device { return s.device }

// Close ends all connections, listeners, pings and look-ups with an error, then the device, and waits for the stack's
// goroutines. It is idempotent; a second caller waits for the first.
func (s *Stack) Close() error {
	s.closing.Do(func() {
		s.mu.Lock()
		s.closed = true
		open := s.listeners
		s.listeners = nil
		s.mu.Unlock()
		for l := range open {
			l.TCPListener.Shutdown()
			_ = l.TCPListener.Close() // never fails
		}
		// The resets of connections are queued before the reader is told that there will be no more.
		s.stack.Close()
		s.link.Close()
		s.cancel()
		s.stack.Wait()
		s.device.stop()
	})
	return nil
}

// use reports, as an error, that the stack is closed, or else nil.
func (s *Stack) use() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	return nil
}

// protocolOf is the network protocol of an unmapped address.
func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

// localAddress converts an own address for gVisor. It names no interface: with one, gVisor accepts any IPv4 address.
func localAddress(a netip.AddrPort) (tcpip.FullAddress, tcpip.NetworkProtocolNumber) {
	full, protocol := fullAddress(a)
	full.NIC = 0
	return full, protocol
}

// fullAddress converts an address for gVisor. An invalid or unspecified one means any.
func fullAddress(a netip.AddrPort) (tcpip.FullAddress, tcpip.NetworkProtocolNumber) {
	ip := a.Addr().Unmap()
	full := tcpip.FullAddress{NIC: nicID, Port: a.Port()}
	if ip.IsValid() && !ip.IsUnspecified() {
		full.Addr = tcpip.AddrFromSlice(ip.AsSlice())
	}
	return full, protocolOf(ip)
}
