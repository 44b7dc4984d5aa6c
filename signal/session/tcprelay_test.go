package session

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/pion/stun"
	"github.com/pion/transport/v2/stdnet"
)

// Once a server has allocated a relay over UDP, none is asked over TCP; any other answer of a server changes nothing.
func TestNoTCPRelayBesideUDP(t *testing.T) {
	inner, err := stdnet.NewNet()
	if err != nil {
		t.Fatal(err)
	}
	n := &agentNet{Net: inner, ctx: t.Context(), tcpDelay: time.Millisecond}
	client, err := n.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if _, err := client.WriteTo([]byte("hello"), server.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	for _, c := range []struct {
		class stun.MessageClass
		want  error
	}{{stun.ClassErrorResponse, nil}, {stun.ClassSuccessResponse, errUDPRelay}} {
		m, err := stun.Build(stun.NewType(stun.MethodAllocate, c.class), stun.TransactionID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := server.WriteTo(m.Raw, client.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := client.ReadFrom(buf); err != nil {
			t.Fatal(err)
		}
		conn, err := n.DialTCP("tcp4", nil, tcp.Addr().(*net.TCPAddr))
		if !errors.Is(err, c.want) {
			t.Errorf("after a %v: got %v, want %v", c.class, err, c.want)
		}
		if err == nil {
			conn.Close()
		}
	}
}

// pion joins an address and a port without brackets, and asks for it as one of IPv4.
func TestLiteralIPv6(t *testing.T) {
	n := &agentNet{Net: &stdnet.Net{}, ctx: t.Context()}
	for _, s := range []string{"2001:db8::1:3478", "[2001:db8::1]:3478"} {
		udp, err := n.ResolveUDPAddr("udp4", s)
		if err != nil || udp.String() != "[2001:db8::1]:3478" {
			t.Errorf("%s over UDP: got %v, %v", s, udp, err)
		}
		tcp, err := n.ResolveTCPAddr("tcp4", s)
		if err != nil || tcp.String() != "[2001:db8::1]:3478" {
			t.Errorf("%s over TCP: got %v, %v", s, tcp, err)
		}
	}
	for s, want := range map[string]bool{"": false, "x": false, "192.0.2.1:3478": false, "turn.example:3478": false, "2001:db8::1:99999": false, "::ffff:192.0.2.1:1": false, "::1:1": true} {
		if _, ok := literalIPv6(s); ok != want {
			t.Errorf("%q: got %v, want %v", s, ok, want)
		}
	}
	if a, err := n.ResolveUDPAddr("udp4", "192.0.2.1:3478"); err != nil || a.String() != "192.0.2.1:3478" {
		t.Errorf("got %v, %v", a, err)
	}
}
