package bind

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun"
)

func TestChannelData(t *testing.T) {
	for _, c := range []struct {
		b      []byte
		number uint16
		data   []byte
	}{
		{[]byte{0x40, 0, 0, 1, 'x'}, 0x4000, []byte("x")},
		{[]byte{0x7f, 0xff, 0, 2, 'x', 'y', 0, 0}, 0x7fff, []byte("xy")},
		{[]byte{0x40, 1, 0, 0}, 0x4001, []byte{}},
		{[]byte{0x40, 0, 0, 2, 'x'}, 0, nil},
		{[]byte{0x40, 0, 0}, 0, nil},
		{[]byte{0x80, 0, 0, 0}, 0, nil},
		{[]byte{0x01, 1, 0, 0}, 0, nil},
		{nil, 0, nil},
	} {
		number, data := parseChannelData(c.b)
		if number != c.number || !bytes.Equal(data, c.data) || (data == nil) != (c.data == nil) {
			t.Errorf("% x: got %#x, %q; want %#x, %q", c.b, number, data, c.number, c.data)
		}
	}
	if got := appendChannelData([]byte("before"), 0x4001, []byte("data")); string(got) != "before\x40\x01\x00\x04data" {
		t.Errorf("got %q", got)
	}
}

func TestChannels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c channels
		a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("[2001:db8::1]:1")
		bindChannel(t, &c, a, 0x4000)
		<-time.After(5 * time.Minute)
		bindChannel(t, &c, b, 0x4001)
		for _, n := range []uint16{0x4000, 0x4001} {
			if !c.has(n) {
				t.Errorf("no channel %#x", n)
			}
		}
		<-time.After(5*time.Minute - 10*time.Second)
		if c.number(a) != 0 || c.number(b) != 0x4001 {
			t.Errorf("after 10 minutes: got %#x and %#x", c.number(a), c.number(b))
		}
		bindChannel(t, &c, b, 0x4001) // renewed
		<-time.After(9 * time.Minute)
		if c.number(b) != 0x4001 {
			t.Error("renewing does not prolong")
		}
		if c.has(0x4000) {
			t.Error("an expired channel is not forgotten")
		}

		// The time counts from the request, which may have been repeated.
		id := stun.NewTransactionID()
		c.sent(channelBind(t, id, a, 0x4002))
		<-time.After(30 * time.Second)
		c.received(channelBound(id, true))
		<-time.After(channelLifetime - 29*time.Second)
		if c.number(a) != 0 {
			t.Error("the time counts from the answer")
		}

		// An error unbinds; an answer that nobody asked for does nothing, nor does one that comes twice.
		bindChannel(t, &c, a, 0x4000)
		c.received(channelBound(stun.NewTransactionID(), false))
		if c.number(a) != 0x4000 {
			t.Error("anybody can unbind")
		}
		id = stun.NewTransactionID()
		c.sent(channelBind(t, id, a, 0x4000))
		c.received(channelBound(id, false))
		c.received(channelBound(id, true))
		if c.number(a) != 0 || c.has(0x4000) {
			t.Error("an error does not unbind")
		}

		// The peer may have an IPv4 address that is written as one of IPv6, and numbers have a range.
		bindChannel(t, &c, a, 0x7fff)
		id = stun.NewTransactionID()
		c.sent(channelBind(t, id, netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port()), 0x4003))
		c.received(channelBound(id, true))
		if c.number(a) != 0x4003 || c.has(0x7fff) {
			t.Errorf("got %#x", c.number(a))
		}
		for _, n := range []uint16{0, 0x3fff, 0x8000, 0xffff} {
			id = stun.NewTransactionID()
			c.sent(channelBind(t, id, a, n))
			c.received(channelBound(id, true))
			if c.number(a) != 0 || c.has(n) {
				t.Errorf("channel %#x", n)
			}
		}
	})
}

func TestChannelsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c channels
		for i := range 10 * maxChannels {
			c.sent(channelBind(t, stun.NewTransactionID(), nthAddr(i), minChannel))
		}
		if len(c.pending) > maxChannels {
			t.Errorf("%d requests are remembered", len(c.pending))
		}
		for i := range 2 * maxChannels {
			id := stun.NewTransactionID()
			c.sent(channelBind(t, id, nthAddr(i), minChannel+uint16(i)))
			c.received(channelBound(id, true))
		}
		if m := c.bound.Load(); len(m.byPeer) != maxChannels || len(m.numbers) != maxChannels {
			t.Errorf("%d channels with %d numbers, want %d", len(m.byPeer), len(m.numbers), maxChannels)
		}
		// Those that there are can be renewed, and make room once they have expired.
		<-time.After(5 * time.Minute)
		bindChannel(t, &c, nthAddr(0), minChannel)
		<-time.After(6 * time.Minute)
		if c.number(nthAddr(0)) != minChannel {
			t.Error("a channel was not renewed")
		}
		bindChannel(t, &c, nthAddr(5*maxChannels), 0x7000)
		if m := c.bound.Load(); len(m.byPeer) != 2 || len(m.numbers) != 2 {
			t.Errorf("got %d channels, want 2", len(m.byPeer))
		}
	})
}

func FuzzParseChannelData(f *testing.F) {
	f.Add([]byte{0x40, 0, 0, 1, 'x'})
	f.Add([]byte{0x7f, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		number, data := parseChannelData(b)
		if data == nil {
			if number != 0 {
				t.Errorf("got channel %#x without data", number)
			}
			return
		}
		if number < minChannel || number > maxChannel {
			t.Errorf("got channel %#x", number)
		}
		if again := appendChannelData(nil, number, data); !bytes.HasPrefix(b, again) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

// FuzzChannels: whatever passes between a client and its server, only a request and its success make a channel.
func FuzzChannels(f *testing.F) {
	id := txID{1}
	request := channelBind(f, id, relayRemote, minChannel)
	f.Add(request, channelBound(id, true))
	f.Add(request, channelBound(id, false))
	f.Add(request[:20], channelBound(id, true))
	f.Add(channelBind(f, id, netip.MustParseAddrPort("[2001:db8::1]:1"), maxChannel), channelBound(id, true)[:20])
	f.Fuzz(func(t *testing.T, request, response []byte) {
		var c channels
		c.received(response)
		c.sent(slices.Clip(request))
		c.received(slices.Clip(response))
		m := c.bound.Load()
		if m == nil {
			return
		}
		if len(m.byPeer) > 1 || len(m.byPeer) != len(m.numbers) {
			t.Errorf("got %v", m)
		}
		for peer, ch := range m.byPeer {
			if c.number(peer) != ch.number || !c.has(ch.number) || transactionID(request) != transactionID(response) || response[1] != 9 {
				t.Errorf("got channel %#x to %s", ch.number, peer)
			}
		}
		if len(c.pending) > 0 {
			t.Errorf("the request is not answered")
		}
	})
}

// Refusals that say nothing about the channel that is there: the short way goes on.
func TestChannelsRefusals(t *testing.T) {
	refuse := func(id txID, code stun.ErrorCode) []byte {
		return stun.MustBuild(stun.NewTransactionIDSetter(id), stun.NewType(stun.MethodChannelBind, stun.ClassErrorResponse), code).Raw
	}
	peer := netip.MustParseAddrPort("192.0.2.1:1")
	for i, c := range []struct {
		name   string
		number uint16
		code   stun.ErrorCode
		want   uint16
	}{
		{"a stale nonce", 0x4000, stun.CodeStaleNonce, 0x4000},
		{"another number, beside the one there is", 0x4001, stun.CodeBadRequest, 0x4000},
		{"the channel", 0x4000, stun.CodeAllocMismatch, 0},
	} {
		var ch channels
		bindChannel(t, &ch, peer, 0x4000)
		id := txID{1, byte(i)}
		ch.sent(channelBind(t, id, peer, c.number))
		ch.received(refuse(id, c.code))
		if got := ch.number(peer); got != c.want {
			t.Errorf("%s: got channel %#x, want %#x", c.name, got, c.want)
		}
	}
}
