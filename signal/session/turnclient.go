package session

import (
	"encoding/binary"
	"math"
	"net/netip"
	"sync/atomic"

	"github.com/pion/stun"
)

// turnClient is what is done about the messages that a TURN client exchanges with its server, however it reaches it:
//
//	client -> checks are paced -> a ChannelBind with a stale nonce gets the new one -> server
//	server -> what no server sends is dropped -> answers about stale nonces -> ChannelData as Data indication -> client
//
// pion's client ends, and the relay with it, at the first message that it does not expect. ChannelData of a channel that it does not know is
// one, and it forgets channels that the server keeps: those whose renewal it got no answer to. A Data indication it never minds.
type turnClient struct {
	relayPacing
	renewal renewal

	holds     atomic.Bool  // the server has allocated a relay, which it wants back
	allocated *atomic.Bool // set then too; may be nil
}

// outgoing returns what is to be sent for a message of the client, nil if nothing is.
func (c *turnClient) outgoing(b []byte) []byte {
	if !c.admits(b) {
		return nil
	}
	return c.renewal.sent(b)
}

// incoming looks at the n bytes of a message of the server and returns how many bytes of b are one for the client: 0 if it is none of the
// client's business. Send sends an answer.
func (c *turnClient) incoming(b []byte, n int, send func([]byte)) int {
	switch {
	case !fromTURNServer(b[:n]) || c.renewal.received(b[:n], send):
		return 0
	case b[0]&0xc0 == 0x40:
		return c.indication(b)
	case b[0] == 1 && b[1] == 3: // Allocate success response, RFC 8656, section 7.3
		c.holds.Store(true)
		if c.allocated != nil {
			c.allocated.Store(true)
		}
	}
	return n
}

// fromTURNServer reports whether b is ChannelData (RFC 8656, section 12.4), a response, or a complete Data indication.
func fromTURNServer(b []byte) bool {
	if len(b) < 4 {
		return false
	}
	if b[0]&0xc0 == 0x40 {
		return int(binary.BigEndian.Uint16(b[2:])) <= len(b)-4
	}
	m := stun.Message{Raw: b}
	if b[0]&0xc0 != 0 || !stun.IsMessage(b) || m.Decode() != nil {
		return false
	}
	switch m.Type.Class {
	case stun.ClassSuccessResponse, stun.ClassErrorResponse:
		return true
	case stun.ClassIndication:
		var peer stun.XORMappedAddress
		return m.Type.Method == stun.MethodData && m.Contains(stun.AttrData) && peer.GetFromAs(&m, stun.AttrXORPeerAddress) == nil
	}
	return false
}

const (
	stunHeader = 20 // RFC 8489, section 5
	attrHeader = 4  // type and length
	stunCookie = 0x2112a442
)

// indication makes a Data indication (RFC 8656, section 11.6) of the ChannelData in b, in place, and returns its length: 0 if the client has
// not asked for the channel, or there is no room.
func (c *turnClient) indication(b []byte) int {
	peer, ok := c.peer(binary.BigEndian.Uint16(b))
	if !ok {
		return 0
	}
	size := int(binary.BigEndian.Uint16(b[2:]))
	address := 4 + peer.Addr().BitLen()/8
	data := stunHeader + attrHeader + address + attrHeader
	end := data + size
	padded := (end + 3) &^ 3
	if padded > min(len(b), math.MaxUint16) {
		return 0
	}
	copy(b[data:end], b[4:])
	clear(b[end:padded])
	binary.BigEndian.PutUint16(b, stun.NewType(stun.MethodData, stun.ClassIndication).Value())
	binary.BigEndian.PutUint16(b[2:], uint16(padded-stunHeader))
	binary.BigEndian.PutUint32(b[4:], stunCookie)
	clear(b[8:stunHeader]) // nobody answers an indication, so that it may be any transaction
	putPeerAddress(b[stunHeader:], peer)
	putAttrHeader(b[data-attrHeader:], stun.AttrData, size)
	return padded
}

func putAttrHeader(b []byte, t stun.AttrType, size int) {
	binary.BigEndian.PutUint16(b, t.Value())
	binary.BigEndian.PutUint16(b[2:], uint16(size))
}

// putPeerAddress writes XOR-PEER-ADDRESS of a message whose transaction is all zeros (RFC 8656, section 18.3; RFC 8489, section 14.2).
func putPeerAddress(b []byte, peer netip.AddrPort) {
	ip := peer.Addr().AsSlice()
	putAttrHeader(b, stun.AttrXORPeerAddress, 4+len(ip))
	b[4], b[5] = 0, 1
	if len(ip) == 16 {
		b[5] = 2
	}
	binary.BigEndian.PutUint16(b[6:], peer.Port()^stunCookie>>16)
	copy(b[8:], ip)
	binary.BigEndian.PutUint32(b[8:], binary.BigEndian.Uint32(b[8:])^stunCookie)
}
