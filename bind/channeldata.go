package bind

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun"
)

// ChannelData (RFC 8656, section 12.4) is a channel number, the length of the data, and the data; over TCP and TLS it is padded to a
// multiple of 4 bytes.
const (
	channelHeaderSize = 4
	minChannel        = 0x4000
	maxChannel        = 0x7fff // RFC 5766; RFC 8656 ends at 0x4fff
	channelPadding    = 4
)

func putChannelHeader(h *[channelHeaderSize]byte, channel uint16, length int) {
	binary.BigEndian.PutUint16(h[:], channel)
	binary.BigEndian.PutUint16(h[2:], uint16(length))
}

// appendChannelData appends a message without padding.
func appendChannelData(dst []byte, channel uint16, data []byte) []byte {
	var h [channelHeaderSize]byte
	putChannelHeader(&h, channel, len(data))
	return append(append(dst, h[:]...), data...)
}

// parseChannelData returns what a ChannelData message carries; data is nil if b is none.
func parseChannelData(b []byte) (channel uint16, data []byte) {
	if len(b) < channelHeaderSize || b[0]&0xc0 != 0x40 {
		return 0, nil
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n > len(b)-channelHeaderSize {
		return 0, nil
	}
	return binary.BigEndian.Uint16(b), b[channelHeaderSize:][:n]
}

const (
	// channelLifetime is how long a channel lives without being bound again: 10 minutes (RFC 8656, section 12), less a while for the
	// request that is on its way.
	channelLifetime = 10*time.Minute - 15*time.Second
	// maxChannels limits the channels and the requests that are remembered: there is one of each for a candidate of the peer.
	maxChannels = 128
)

// channels are those that a TURN client has bound, learned from the messages that it exchanges with its server. All methods are safe for
// concurrent use.
type channels struct {
	bound atomic.Pointer[bindings] // immutable; nil: none

	mu      sync.Mutex // guards the following, and changes of bound
	pending map[txID]request
}

type bindings struct {
	byPeer  map[netip.AddrPort]channel
	numbers map[uint16]struct{}
}

type channel struct {
	number  uint16
	expires time.Time
}

// request is a ChannelBind request that was not answered yet.
type request struct {
	peer   netip.AddrPort
	number uint16
	sent   time.Time
}

// number returns the channel to the peer, 0 if there is none.
func (c *channels) number(peer netip.AddrPort) uint16 {
	m := c.bound.Load()
	if m == nil {
		return 0
	}
	ch, ok := m.byPeer[peer]
	if !ok || time.Now().After(ch.expires) {
		return 0
	}
	return ch.number
}

// has reports whether the number is that of a channel.
func (c *channels) has(number uint16) bool {
	m := c.bound.Load()
	if m == nil {
		return false
	}
	_, ok := m.numbers[number]
	return ok
}

// sent looks at a message of the client.
func (c *channels) sent(b []byte) {
	if len(b) < stunHeaderSize || b[0] != 0 || b[1] != 0x09 { // ChannelBind request
		return
	}
	m := stun.Message{Raw: b}
	var peer stun.XORMappedAddress
	if m.Decode() != nil || peer.GetFromAs(&m, stun.AttrXORPeerAddress) != nil {
		return
	}
	number, err := m.Get(stun.AttrChannelNumber)
	if err != nil || len(number) < 2 {
		return
	}
	addr, _ := netip.AddrFromSlice(peer.IP)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending == nil {
		c.pending = make(map[txID]request)
	}
	if len(c.pending) >= maxChannels {
		clear(c.pending) // of a server that answers nothing
	}
	c.pending[txID(m.TransactionID)] = request{unmapPort(netip.AddrPortFrom(addr, uint16(peer.Port))), binary.BigEndian.Uint16(number), time.Now()}
}

// received looks at a message of the server.
func (c *channels) received(b []byte) {
	if len(b) < stunHeaderSize || b[0] != 1 || b[1] != 0x09 && b[1] != 0x19 { // ChannelBind success or error response
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id := transactionID(b)
	r, ok := c.pending[id]
	if !ok {
		return
	}
	delete(c.pending, id)
	now := &bindings{byPeer: make(map[netip.AddrPort]channel), numbers: make(map[uint16]struct{})}
	if old := c.bound.Load(); old != nil {
		maps.Copy(now.byPeer, old.byPeer)
	}
	maps.DeleteFunc(now.byPeer, func(_ netip.AddrPort, ch channel) bool { return time.Now().After(ch.expires) })
	refused := b[1] == 0x19
	// A stale nonce says nothing about the channel. And a peer can't have two (RFC 8656, section 12.1): of a client that gave its own up and
	// asks for one of another number, the first lives on until it expires.
	if !refused || now.byPeer[r.peer].number == r.number && !staleNonce(b) {
		delete(now.byPeer, r.peer)
	}
	if !refused && r.number >= minChannel && r.number <= maxChannel && len(now.byPeer) < maxChannels {
		now.byPeer[r.peer] = channel{r.number, r.sent.Add(channelLifetime)}
	}
	for _, ch := range now.byPeer {
		now.numbers[ch.number] = struct{}{}
	}
	c.bound.Store(now)
}

// staleNonce reports whether an error response asks for nothing but the same again with another nonce.
func staleNonce(b []byte) bool {
	m := stun.Message{Raw: b}
	var code stun.ErrorCodeAttribute
	return m.Decode() == nil && code.GetFrom(&m) == nil && code.Code == stun.CodeStaleNonce
}
