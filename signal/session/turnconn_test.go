package session

import (
	"net"
	"testing"
	"time"

	"github.com/pion/stun"
	"github.com/pion/turn/v2"
)

func TestTURNConnFilters(t *testing.T) {
	listen := func() net.PacketConn {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	server, stranger, inner := listen(), listen(), listen()
	c := &turnConn{PacketConn: inner}
	if _, err := c.WriteTo([]byte("hello"), server.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	data := []byte{0x40, 0, 0, 1, 'x'}
	for _, s := range []struct {
		from net.PacketConn
		b    []byte
	}{
		{stranger, data},
		{server, stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw},
		{server, []byte{0x40, 0, 0, 9, 'x'}},
		{server, []byte("junk")},
		{server, data},
	} {
		if _, err := s.from.WriteTo(s.b, inner.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	inner.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 100)
	n, _, err := c.ReadFrom(b)
	if err != nil || string(b[:n]) != string(data) {
		t.Errorf("got %q, %v; want the channel data alone", b[:n], err)
	}
}

// FuzzFromTURNServer: what passes does not end a TURN client.
func FuzzFromTURNServer(f *testing.F) {
	f.Add([]byte{0x40, 0, 0, 1, 'x'})
	f.Add([]byte{0x7f, 0xff, 0, 0})
	f.Add([]byte("A0\x00\b!\x12\xa4B0000000000000000000000000"))
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingSuccess, stun.Fingerprint).Raw)
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw)
	f.Add(stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodData, stun.ClassIndication)).Raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		if !fromTURNServer(b) {
			return
		}
		pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		client, err := turn.NewClient(&turn.ClientConfig{Conn: pc, LoggerFactory: loggerFactory{discard()}})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := client.HandleInbound(b, pc.LocalAddr()); err != nil {
			t.Errorf("%x: %v", b, err)
		}
	})
}
