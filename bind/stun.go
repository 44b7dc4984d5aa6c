package bind

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"time"
)

// stunClass is the class of a STUN message: two bits of its type (RFC 8489, section 5).
type stunClass uint16

const (
	classRequest    stunClass = 0x0000
	classIndication stunClass = 0x0010
	classSuccess    stunClass = 0x0100
	classError      stunClass = 0x0110

	classMask = 0x0110

	attrUsername = 0x0006
	// maxUsername is RFC 8489's limit (section 14.3).
	maxUsername = 512
)

// The three functions below take a message that classify has found to be STUN.

func classOf(b []byte) stunClass { return stunClass(binary.BigEndian.Uint16(b) & classMask) }

type txID [12]byte

func transactionID(b []byte) txID { return txID(b[8:stunHeaderSize]) }

// usernameFragment returns what stands before the colon of USERNAME, which is the receiver's user fragment. It refuses messages
// without one, and attributes that do not fit their message.
func usernameFragment(b []byte) ([]byte, bool) {
	for b = b[stunHeaderSize:]; len(b) >= 4; {
		typ, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		padded := (n + 3) &^ 3
		if padded > len(b)-4 {
			return nil, false
		}
		if typ == attrUsername {
			if n > maxUsername {
				return nil, false
			}
			ufrag, _, ok := bytes.Cut(b[4:4+n], []byte(":"))
			return ufrag, ok && len(ufrag) > 0
		}
		b = b[4+padded:]
	}
	return nil, false
}

const (
	// transactionLifetime is longer than pion waits for a response (4 s).
	transactionLifetime = 10 * time.Second
	// maxTransactions limits each of the two halves; 10,000 agents with a request every two seconds need less.
	maxTransactions = 1 << 16
)

// transaction is a request that has been sent: for an agent's connection, or else for the caller.
type transaction struct {
	conn    *muxConn
	caller  caller
	dst     netip.AddrPort
	expires time.Time
}

// caller waits for the response to a request of the bind's own: a query of a STUN server or a probe.
type caller interface {
	// answer takes a response from where the request went, which arrived at l. It runs in a receiving goroutine: it must not block, and
	// copies what it keeps of b.
	answer(b []byte, l netip.Addr)
}

// transactions remembers the newest requests: at least those of the last transactionLifetime or maxTransactions of them, whichever
// are fewer, and at most twice as many. The zero value is empty.
type transactions struct {
	young, old map[txID]transaction
	since      time.Time // when young was begun
}

func (t *transactions) put(id txID, tr transaction, now time.Time) {
	if t.young == nil || len(t.young) >= maxTransactions || now.Sub(t.since) > transactionLifetime {
		t.young, t.old, t.since = make(map[txID]transaction), t.young, now
	}
	t.young[id] = tr
}

// take returns and forgets a transaction. The response has to come from where the request went (RFC 8445, section 7.2.5.2.1).
func (t *transactions) take(id txID, src netip.AddrPort, now time.Time) (transaction, bool) {
	for _, half := range []map[txID]transaction{t.young, t.old} {
		if tr, ok := half[id]; ok {
			if tr.dst != src || now.After(tr.expires) {
				return transaction{}, false
			}
			delete(half, id)
			return tr, true
		}
	}
	return transaction{}, false
}

// tokenBucket limits a rate; it starts full.
type tokenBucket struct {
	rate, burst float64
	spent       float64
	last        time.Time
}

func (t *tokenBucket) take(now time.Time) bool {
	t.spent = max(0, t.spent-t.rate*now.Sub(t.last).Seconds())
	t.last = now
	if t.spent+1 > t.burst {
		return false
	}
	t.spent++
	return true
}
