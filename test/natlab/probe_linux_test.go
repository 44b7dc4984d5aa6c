package natlab

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// arrives is how long a probe waits for a packet that must come, and lost how
// long for one that must not where no later packet can prove it. Everything
// between is one machine's kernel.
const (
	arrives = 10 * time.Second
	lost    = 100 * time.Millisecond
)

// listen opens a UDP socket on a host.
func listen(t testing.TB, h *Host, addr netip.Addr, port uint16) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	err := h.Do(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, port)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func send(t testing.TB, c *net.UDPConn, to netip.AddrPort, payload string) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(payload), to); err != nil {
		t.Fatalf("send %q to %v: %v", payload, to, err)
	}
}

// receive returns the next packet's payload and source; "" if none comes in time.
func receive(t testing.TB, c *net.UDPConn, wait time.Duration) (string, netip.AddrPort) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 65536)
	n, from, err := c.ReadFromUDPAddrPort(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", netip.AddrPort{}
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// mapped sends from c to a server socket and returns the source that it sees.
func mapped(t testing.TB, c, server *net.UDPConn) netip.AddrPort {
	t.Helper()
	send(t, c, server.LocalAddr().(*net.UDPAddr).AddrPort(), "map")
	payload, from := receive(t, server, arrives)
	if payload != "map" {
		t.Fatalf("got %q from %v at %v, want the probe", payload, from, server.LocalAddr())
	}
	return from
}

// servers are sockets of the server on two addresses and two ports.
type servers struct {
	primary, otherPort, otherAddr *net.UDPConn
}

func listenServers(t testing.TB, l *Lab) servers {
	t.Helper()
	return servers{
		primary:   listen(t, l.Server, l.Server.Addr4(), 3478),
		otherPort: listen(t, l.Server, l.Server.Addr4(), 3479),
		otherAddr: listen(t, l.Server, l.ServerAlt4, 3478),
	}
}

// behaviour is what RFC 4787 sections 4.1 and 5 ask of a NAT.
type behaviour struct {
	EndpointIndependentMapping bool
	FromOtherPort              bool // a packet from another port of a host that was sent to gets in
	FromOtherAddress           bool // one from a host that was never sent to does
}

// probe measures the NAT in front of a host with a fresh socket on the given port.
func probe(t testing.TB, s servers, h *Host, port uint16) behaviour {
	t.Helper()
	var got behaviour

	// Filtering: h has sent to the primary alone. The primary's own packet comes
	// last and proves that the others would have come.
	c := listen(t, h, h.Addr4(), port)
	outside := mapped(t, c, s.primary)
	send(t, s.otherAddr, outside, "other address")
	send(t, s.otherPort, outside, "other port")
	send(t, s.primary, outside, "primary")
	for {
		payload, _ := receive(t, c, arrives)
		switch payload {
		case "other address":
			got.FromOtherAddress = true
		case "other port":
			got.FromOtherPort = true
		case "":
			t.Fatal("an answer to the host was lost")
		}
		if payload == "primary" {
			break
		}
	}

	// Mapping.
	got.EndpointIndependentMapping = mapped(t, c, s.otherPort) == outside && mapped(t, c, s.otherAddr) == outside
	c.Close()
	return got
}

// sequence numbers packets, to count those that are lost.
func sequence(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
