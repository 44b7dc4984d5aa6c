package netstack

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip"
	gicmp "gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Ping sends one ICMP echo request and returns the time until the answer came. It waits as long as ctx permits.
func (s *Stack) Ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	err := s.use()
	var rtt time.Duration
	if err == nil {
		rtt, err = s.ping(ctx, addr.Unmap())
	}
	if err != nil {
		return 0, fmt.Errorf("ping %s: %w", addr, err)
	}
	return rtt, nil
}

func (s *Stack) ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	if addr.Is4() && !s.has4 || addr.Is6() && !s.has6 || !addr.IsValid() {
		return 0, errNoAddress
	}
	request, protocol, transport := icmp.Type(ipv4.ICMPTypeEcho), 1, gicmp.ProtocolNumber4
	if addr.Is6() {
		request, protocol, transport = ipv6.ICMPTypeEchoRequest, 58, gicmp.ProtocolNumber6
	}
	var queue waiter.Queue
	ep, tcpErr := s.stack.NewEndpoint(transport, protocolOf(addr), &queue)
	if tcpErr != nil {
		return 0, fmt.Errorf("open: %s", tcpErr)
	}
	defer ep.Close()
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	to, _ := fullAddress(netip.AddrPortFrom(addr, 0))
	if err := ep.Connect(to); err != nil {
		return 0, fmt.Errorf("connect: %s", err)
	}
	// The stack chooses the identifier; random data tells our answer from a forged or a late one.
	data := make([]byte, 16)
	if _, err := rand.Read(data); err != nil {
		return 0, err
	}
	message, err := (&icmp.Message{Type: request, Body: &icmp.Echo{Seq: 1, Data: data}}).Marshal(nil)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := ep.Write(bytes.NewReader(message), tcpip.WriteOptions{}); err != nil {
		return 0, fmt.Errorf("send: %s", err)
	}
	for {
		select {
		case <-ready:
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-s.ctx.Done():
			return 0, net.ErrClosed
		}
		for {
			var got bytes.Buffer
			if _, err := ep.Read(&got, tcpip.ReadOptions{}); err != nil {
				break // nothing more for now
			}
			answer, err := icmp.ParseMessage(protocol, got.Bytes())
			if err != nil {
				continue
			}
			if echo, ok := answer.Body.(*icmp.Echo); ok && echo.Seq == 1 && bytes.Equal(echo.Data, data) {
				return time.Since(start), nil
			}
		}
	}
}
