package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// pingPayload is the size in bytes of an echo request's data, as of ping(8).
const pingPayload = 56

// kernelPing sends an ICMP echo request (RFC 792, RFC 4443) by the kernel's stack, over a raw socket or, where that is not permitted,
// a datagram one, and returns the round-trip time.
func kernelPing(ctx context.Context, to netip.Addr) (time.Duration, error) {
	raw, datagram, wildcard, proto := "ip4:icmp", "udp4", "0.0.0.0", 1
	var request, reply icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if to.Is6() {
		raw, datagram, wildcard, proto = "ip6:ipv6-icmp", "udp6", "::", 58
		request, reply = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	var dst net.Addr = &net.IPAddr{IP: to.AsSlice()}
	c, err := icmp.ListenPacket(raw, wildcard)
	if errors.Is(err, os.ErrPermission) {
		dst = &net.UDPAddr{IP: to.AsSlice()}
		c, err = icmp.ListenPacket(datagram, wildcard)
	}
	if errors.Is(err, os.ErrPermission) {
		return 0, fmt.Errorf("open an ICMP socket: %w: the daemon needs CAP_NET_RAW, or its group a place in net.ipv4.ping_group_range (Linux)", err)
	}
	if err != nil {
		return 0, fmt.Errorf("open an ICMP socket: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	start := time.Now()
	id := int(start.UnixNano() & 0xffff)
	data := []byte(fmt.Sprintf("%0*x", pingPayload, start.UnixNano()))
	message, err := (&icmp.Message{Type: request, Body: &icmp.Echo{ID: id, Seq: 1, Data: data}}).Marshal(nil)
	if err != nil {
		return 0, err
	}
	if _, err := c.WriteTo(message, dst); err != nil {
		return 0, err
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil {
				return 0, ctx.Err()
			}
			return 0, err
		}
		m, err := icmp.ParseMessage(proto, buf[:n])
		if err != nil || m.Type != reply {
			continue
		}
		if echo, ok := m.Body.(*icmp.Echo); ok && string(echo.Data) == string(data) {
			return time.Since(start), nil
		}
	}
}
