//go:build !wice_portable

package bind

import (
	"testing"
	"time"
)

// An arena is a mebibyte, and there may be thousands of relays: one that waits holds none.
func TestIdleTURNSocketHoldsNoArena(t *testing.T) {
	b := New(Options{})
	t.Cleanup(func() { b.Shutdown() })
	s := newStandIn(t, b, "127.0.0.1")
	stranger := udpConn(t, "127.0.0.1:0")
	buf := make([]byte, 1<<16)
	for range 3 {
		stranger.WriteToUDPAddrPort([]byte("stranger"), s.to.dst)
		s.server.conn.WriteToUDPAddrPort([]byte("client"), s.to.dst)
		s.server.conn.WriteToUDPAddrPort(appendChannelData(nil, standInChannel, transport(100, 1)), s.to.dst)
		if n, _, err := s.t.ReadFrom(buf); err != nil || string(buf[:n]) != "client" {
			t.Fatalf("got %q, %v", buf[:n], err)
		}
		s.t.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, _, err := s.t.ReadFrom(buf); err == nil {
			t.Fatal("there was more")
		}
		s.t.SetReadDeadline(time.Time{})
		if s.t.in.arena != nil {
			t.Error("an arena is held")
		}
	}
}

// What a sender in the pool holds would not be collected.
func TestSendersHoldNothing(t *testing.T) {
	b := New(Options{})
	t.Cleanup(func() { b.Shutdown() })
	s := newStandIn(t, b, "127.0.0.1")
	bufs := make([][]byte, batchSize)
	for i := range bufs {
		bufs[i] = transport(64+i%5, uint32(i))
	}
	c := &sender{ep: s.to, channel: standInChannel}
	c.call = c.sendmmsg
	for _, gso := range []bool{true, false} {
		s.server.gso.Store(gso && s.server.gso.Load())
		if _, err := c.batch(s.server, bufs); err != nil {
			t.Fatal(err)
		}
		for i := range c.iovs {
			if c.iovs[i].Base != nil {
				t.Fatalf("vector %d is kept", i)
			}
		}
		for i := range c.msgs {
			if c.msgs[i].hdr.Name != nil {
				t.Fatalf("the name of message %d is kept", i)
			}
		}
		if c.bufs != nil || c.src != nil {
			t.Error("the packets are kept")
		}
	}
}

// A socket of both families sends to IPv4 what fits into IPv4: 45 full packets as ChannelData are 20 bytes more.
func TestBatchFitsIPv4(t *testing.T) {
	b := New(Options{})
	t.Cleanup(func() { b.Shutdown() })
	s, err := b.ListenTURN("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !s.sock.v6 || !s.sock.gso.Load() {
		t.Skip("no IPv6 or no segmentation here")
	}
	c := &sender{ep: s.endpoint(addrPortOf(udpConn(t, "127.0.0.1:0").LocalAddr())), channel: standInChannel}
	c.call = c.sendmmsg
	bufs := make([][]byte, 45)
	for i := range bufs {
		bufs[i] = transport(1452, uint32(i))
	}
	if _, err := c.batch(s.sock, bufs); err != nil {
		t.Fatal(err)
	}
	if !c.gso || c.end != 2 {
		t.Errorf("segmentation %v, %d messages; want 2 messages with it", c.gso, c.end)
	}
}
