package session

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/stun"
)

// relayPacing holds back the checks in what a TURN client sends: through a relay, too, a peer's candidates must not get more of them than
// the pacing allows, whoever lives there. It does not see into DTLS.
type relayPacing struct {
	pacer *pacer

	mu       sync.Mutex
	channels map[uint16]netip.AddrPort // what the client asked to be bound, be there a pacer or not
}

// maxChannels is how many channel numbers there are to remember: more than one for each candidate is a client gone wrong.
const maxChannels = 4 * maxPairs

// admits reports whether the client's message may be sent now.
func (r *relayPacing) admits(b []byte) bool {
	if len(b) < 4 {
		return true
	}
	if b[0]&0xc0 == 0x40 { // ChannelData, RFC 8656, section 12.4
		n := int(binary.BigEndian.Uint16(b[2:]))
		if n > len(b)-4 || !isCheck(b[4:4+n]) {
			return true
		}
		number := binary.BigEndian.Uint16(b)
		to, ok := r.peer(number)
		if !ok {
			to = netip.AddrPortFrom(netip.Addr{}, number)
		}
		return r.allow(to)
	}
	if b[0] != 0 || b[1] != 0x09 && b[1] != 0x16 { // ChannelBind request, Send indication
		return true
	}
	m := stun.Message{Raw: b}
	var peer stun.XORMappedAddress
	if m.Decode() != nil || peer.GetFromAs(&m, stun.AttrXORPeerAddress) != nil {
		return true
	}
	addr, _ := netip.AddrFromSlice(peer.IP)
	to := netip.AddrPortFrom(addr.Unmap(), uint16(peer.Port))
	if b[1] == 0x09 {
		if number, err := m.Get(stun.AttrChannelNumber); err == nil && len(number) >= 2 {
			r.bound(binary.BigEndian.Uint16(number), to)
		}
		return true
	}
	data, err := m.Get(stun.AttrData)
	return err != nil || !isCheck(data) || r.allow(to)
}

func (r *relayPacing) allow(to netip.AddrPort) bool {
	return r.pacer == nil || r.pacer.allow(time.Now(), pair{r, to})
}

// peer returns the address that the client asked to bind the channel to.
func (r *relayPacing) peer(number uint16) (netip.AddrPort, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	to, ok := r.channels[number]
	return to, ok
}

func (r *relayPacing) bound(number uint16, to netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.channels == nil {
		r.channels = make(map[uint16]netip.AddrPort)
	}
	if len(r.channels) < maxChannels {
		r.channels[number] = to
	}
}
