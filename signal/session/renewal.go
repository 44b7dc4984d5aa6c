package session

import (
	"slices"
	"sync"

	"github.com/pion/stun"

	"github.com/wice-go/wice-go/proto"
)

// renewal asks again for a channel when the server says that the nonce is stale (RFC 8656, section 5; RFC 8489, section 9.2.5). pion does
// that for allocations and permissions; a channel it gives up for good then, and with it the short way of the packets.
//
// The second request has a transaction of its own, and replaces the first when the client repeats that; pion is shown the answer as that to
// the first. It does so once: the answer to the second is final.
type renewal struct {
	servers []proto.ICEServer // whose passwords sign

	mu       sync.Mutex // guards the following
	requests map[transactionID]request
	again    map[transactionID]transactionID // second transaction to first
}

type transactionID = [stun.TransactionIDSize]byte

// request is a ChannelBind request as it was sent last.
type request struct {
	raw     []byte
	renewed bool
}

// maxRenewals limits the requests that are remembered; a client has few under way.
const maxRenewals = 64

// sent looks at a message of the client and returns what is to be sent in its place, which mostly is the message.
func (r *renewal) sent(b []byte) []byte {
	if len(b) < stunHeader || b[0] != 0 || b[1] != 0x09 { // ChannelBind request
		return b
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	id := transactionID(b[8:])
	if known, ok := r.requests[id]; ok {
		return known.raw
	}
	if r.requests == nil || len(r.requests) >= maxRenewals {
		r.requests = make(map[transactionID]request)
		r.again = make(map[transactionID]transactionID)
	}
	r.requests[id] = request{raw: slices.Clone(b)}
	return b
}

// received looks at a message of the server and reports whether it is none of the client's business. It sends what is to be sent again.
func (r *renewal) received(b []byte, send func([]byte)) bool {
	if len(b) < stunHeader || b[0] != 1 || b[1] != 0x09 && b[1] != 0x19 { // ChannelBind responses
		return false
	}
	second, swallow := r.answered(b)
	if second != nil {
		send(second)
	}
	return swallow
}

// answered takes a response, and returns the second request if that is to be sent. It reports whether the client is not to see the response.
func (r *renewal) answered(b []byte) (second []byte, swallow bool) {
	id := transactionID(b[8:])
	r.mu.Lock()
	defer r.mu.Unlock()
	if first, ok := r.again[id]; ok {
		delete(r.again, id)
		delete(r.requests, first)
		copy(b[8:], first[:])
		return nil, false
	}
	old, ok := r.requests[id]
	if !ok {
		return nil, false
	}
	if old.renewed && b[1] == 0x19 {
		return nil, true // about the first, which the client had repeated by then
	}
	delete(r.requests, id)
	if old.renewed {
		return nil, false
	}
	m, err := r.renew(old.raw, b)
	if err != nil || m == nil {
		return nil, false
	}
	r.requests[id] = request{raw: m.Raw, renewed: true}
	r.again[m.TransactionID] = id
	return m.Raw, true
}

// renew returns the request with the nonce of an error response, nil if that is about something else.
func (r *renewal) renew(request, response []byte) (*stun.Message, error) {
	old, answer := stun.Message{Raw: request}, stun.Message{Raw: response}
	var code stun.ErrorCodeAttribute
	var nonce stun.Nonce
	var user stun.Username
	var realm stun.Realm
	if answer.Decode() != nil || code.GetFrom(&answer) != nil || code.Code != stun.CodeStaleNonce {
		return nil, nil
	}
	for _, err := range []error{nonce.GetFrom(&answer), old.Decode(), user.GetFrom(&old), realm.GetFrom(&old)} {
		if err != nil {
			return nil, err
		}
	}
	// Servers may know one user by different passwords: it is the one that signed the first request.
	i := slices.IndexFunc(r.servers, func(s proto.ICEServer) bool {
		return s.Username == user.String() && stun.NewLongTermIntegrity(s.Username, realm.String(), s.Password).Check(&old) == nil
	})
	if i < 0 {
		return nil, nil
	}
	m, err := stun.Build(stun.TransactionID, old.Type)
	if err != nil {
		return nil, err
	}
	for _, a := range old.Attributes {
		switch a.Type {
		case stun.AttrXORPeerAddress: // an address of IPv6 is encoded with the transaction (RFC 8489, section 14.2)
			var peer stun.XORMappedAddress
			if err := peer.GetFromAs(&old, a.Type); err != nil {
				return nil, err
			}
			if err := peer.AddToAs(m, a.Type); err != nil {
				return nil, err
			}
		case stun.AttrNonce, stun.AttrMessageIntegrity, stun.AttrFingerprint:
		default:
			m.Add(a.Type, a.Value)
		}
	}
	for _, s := range []stun.Setter{nonce, stun.NewLongTermIntegrity(user.String(), realm.String(), r.servers[i].Password), stun.Fingerprint} {
		if err := s.AddTo(m); err != nil {
			return nil, err
		}
	}
	return m, nil
}
