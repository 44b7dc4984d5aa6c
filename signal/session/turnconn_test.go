package session

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun"
	"github.com/pion/turn/v2"
)

// channelData is a message with data of a channel.
func channelData(number uint16, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, number)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// channelBind is the request that pion's client makes, signed with the password "secret" if there is a nonce.
func channelBind(t testing.TB, number uint16, peer netip.AddrPort, nonce string) *stun.Message {
	t.Helper()
	setters := []stun.Setter{
		stun.TransactionID, stun.NewType(stun.MethodChannelBind, stun.ClassRequest), xorPeer(peer),
		stun.RawAttribute{Type: stun.AttrChannelNumber, Value: []byte{byte(number >> 8), byte(number), 0, 0}},
	}
	if nonce != "" {
		setters = append(setters, stun.NewUsername("user"), stun.NewRealm("test"), stun.NewNonce(nonce),
			stun.NewLongTermIntegrity("user", "test", "secret"), stun.Fingerprint)
	}
	m, err := stun.Build(setters...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// xorPeer adds XOR-PEER-ADDRESS.
type xorPeer netip.AddrPort

func (p xorPeer) AddTo(m *stun.Message) error {
	ap := netip.AddrPort(p)
	return (stun.XORMappedAddress{IP: ap.Addr().AsSlice(), Port: int(ap.Port())}).AddToAs(m, stun.AttrXORPeerAddress)
}

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
	if _, err := c.WriteTo(channelBind(t, 0x4000, netip.MustParseAddrPort("192.0.2.1:7"), "").Raw, server.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		from net.PacketConn
		b    []byte
	}{
		{stranger, channelData(0x4000, []byte("stranger"))},
		{server, stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw},
		{server, stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodConnectionAttempt, stun.ClassIndication)).Raw},
		{server, stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodData, stun.ClassIndication)).Raw}, // without data
		{server, channelData(0x4000, []byte("truncated"))[:9]},
		{server, channelData(0x4001, []byte("a channel that nobody asked for"))},
		{server, []byte("junk")},
		{server, nil},
		{server, channelData(0x4000, []byte("x"))},
	} {
		if _, err := s.from.WriteTo(s.b, inner.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	inner.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 100)
	n, _, err := c.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	if peer, data := dataIndication(t, b[:n]); peer.String() != "192.0.2.1:7" || string(data) != "x" {
		t.Errorf("got %q from %s, want the channel data alone", data, peer)
	}
}

// dataIndication takes a Data indication apart.
func dataIndication(t testing.TB, b []byte) (netip.AddrPort, []byte) {
	t.Helper()
	m := stun.Message{Raw: b}
	var peer stun.XORMappedAddress
	if err := m.Decode(); err != nil || m.Type != stun.NewType(stun.MethodData, stun.ClassIndication) || len(b) != int(m.Length)+stunHeader {
		t.Fatalf("%x: %v, %v", b, m.Type, err)
	}
	if err := peer.GetFromAs(&m, stun.AttrXORPeerAddress); err != nil {
		t.Fatal(err)
	}
	data, err := m.Get(stun.AttrData)
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := netip.AddrFromSlice(peer.IP)
	return netip.AddrPortFrom(addr.Unmap(), uint16(peer.Port)), data
}

// Whatever a peer sends, pion's client is shown a message that it knows. One of these used to end a relay over TCP: data that begins like
// STUN, which its reader of streams takes for proof enough.
func TestChannelDataBecomesIndication(t *testing.T) {
	for _, peer := range []string{"192.0.2.1:7", "[2001:db8::1]:65535"} {
		var c turnClient
		to := netip.MustParseAddrPort(peer)
		c.outgoing(channelBind(t, 0x7fff, to, "").Raw)
		for _, data := range [][]byte{
			nil, {1}, []byte("!\x12\xa4B\x00\x00\x00\x00\x00"), []byte("!\x12\xa4B"), bytes.Repeat([]byte("x"), 1452), bytes.Repeat([]byte("y"), 65000),
		} {
			b := make([]byte, 1<<16)
			n := copy(b, append(channelData(0x7fff, data), 0xff, 0xff, 0xff)) // padding that is not zero
			n = c.incoming(b, n, nil)
			if n == 0 || n%4 != 0 {
				t.Fatalf("%d bytes of data: got %d", len(data), n)
			}
			if from, got := dataIndication(t, b[:n]); from != to || !bytes.Equal(got, data) {
				t.Errorf("got %d bytes from %s, want %d from %s", len(got), from, len(data), to)
			}
		}
		for _, size := range []int{65480, 65490, 65531} { // no room
			b := make([]byte, 1<<16)
			n := copy(b, channelData(0x7fff, make([]byte, size)))
			if n = c.incoming(b, n, nil); n != 0 {
				dataIndication(t, b[:n])
			}
		}
		b := channelData(0x7fff, []byte("no room"))
		if n := c.incoming(b, len(b), nil); n != 0 {
			t.Errorf("got %d without room", n)
		}
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
	f.Fuzz(func(t *testing.T, in []byte) {
		var c turnClient
		if len(in) >= 2 {
			c.outgoing(channelBind(t, binary.BigEndian.Uint16(in), netip.MustParseAddrPort("192.0.2.1:7"), "").Raw)
		}
		b := make([]byte, max(len(in), 1<<16-1))
		n := c.incoming(b, copy(b, in), func([]byte) {})
		if n == 0 {
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
		if _, err := client.HandleInbound(b[:n], pc.LocalAddr()); err != nil {
			t.Errorf("%x: %v", in, err)
		}
	})
}
