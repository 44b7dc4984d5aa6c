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
// The second request has a transaction of its own; pion is shown the answer as that to the first.
type renewal struct {
	servers []proto.ICEServer // whose passwords sign

	mu       sync.Mutex // guards the following
	requests map[[stun.TransactionIDSize]byte][]byte
	again    map[[stun.TransactionIDSize]byte][stun.TransactionIDSize]byte // second transaction to first
}

// maxRenewals limits the requests that are remembered; a client has few under way.
const maxRenewals = 64

// sent looks at a message of the client.
func (r *renewal) sent(b []byte) {
	if len(b) < 20 || b[0] != 0 || b[1] != 0x09 { // ChannelBind request
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.requests == nil || len(r.requests) >= maxRenewals {
		r.requests = make(map[[stun.TransactionIDSize]byte][]byte)
		r.again = make(map[[stun.TransactionIDSize]byte][stun.TransactionIDSize]byte)
	}
	id := [stun.TransactionIDSize]byte(b[8:])
	if _, known := r.requests[id]; !known {
		r.requests[id] = slices.Clone(b)
	}
}

// received looks at a message of the server and reports whether it is none of the client's business. It sends what is to be sent again.
func (r *renewal) received(b []byte, send func([]byte)) bool {
	if len(b) < 20 || b[0] != 1 || b[1] != 0x09 && b[1] != 0x19 { // ChannelBind responses
		return false
	}
	r.mu.Lock()
	id := [stun.TransactionIDSize]byte(b[8:])
	first, second := r.again[id]
	request, known := r.requests[id]
	delete(r.again, id)
	r.mu.Unlock()
	switch {
	case second:
		copy(b[8:], first[:])
		return false
	case !known:
		return false
	case request == nil:
		return b[1] == 0x19 // the client has repeated the first request meanwhile
	}
	m, err := r.renew(request, b)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || m == nil {
		delete(r.requests, id)
		return false
	}
	r.requests[id] = nil
	r.again[m.TransactionID] = id
	send(m.Raw)
	return true
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
	i := slices.IndexFunc(r.servers, func(s proto.ICEServer) bool { return s.Username == user.String() })
	if i < 0 {
		return nil, nil
	}
	m, err := stun.Build(stun.TransactionID, old.Type)
	if err != nil {
		return nil, err
	}
	for _, a := range old.Attributes {
		switch a.Type {
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
