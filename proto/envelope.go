package proto

import (
	"fmt"

	gproto "google.golang.org/protobuf/proto"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/proto/pb"
)

// Envelope is what a backend carries: it tells nothing but whom it is for.
type Envelope struct {
	Recipient key.Public
	Sealed    []byte
}

// Marshal returns the wire form, or an error if it would break [MaxEnvelopeSize].
func (e *Envelope) Marshal() ([]byte, error) {
	if err := e.validate(); err != nil {
		return nil, fmt.Errorf("marshal envelope: %w", err)
	}
	b, err := marshal(&pb.Envelope{Recipient: e.Recipient[:], Sealed: e.Sealed}, MaxEnvelopeSize)
	if err != nil {
		return nil, fmt.Errorf("marshal envelope: %w", err)
	}
	return b, nil
}

// UnmarshalEnvelope reads the wire form. The result does not share memory with b.
func UnmarshalEnvelope(b []byte) (*Envelope, error) {
	var m pb.Envelope
	if err := unmarshal(b, &m, MaxEnvelopeSize); err != nil {
		return nil, fmt.Errorf("unmarshal envelope: %w", err)
	}
	if n := len(m.GetRecipient()); n != key.Size {
		return nil, fmt.Errorf("unmarshal envelope: recipient: %d bytes, want %d", n, key.Size)
	}
	e := &Envelope{Recipient: key.Public(m.GetRecipient()), Sealed: m.GetSealed()}
	if err := e.validate(); err != nil {
		return nil, fmt.Errorf("unmarshal envelope: %w", err)
	}
	return e, nil
}

func (e *Envelope) validate() error {
	if e.Recipient.IsZero() {
		return fmt.Errorf("recipient: %w", key.ErrZero)
	}
	if n := len(e.Sealed); n < SealOverhead || n > MaxPayloadSize+SealOverhead {
		return fmt.Errorf("sealed: %d bytes, want %d to %d", n, SealOverhead, MaxPayloadSize+SealOverhead)
	}
	return nil
}

// marshal encodes deterministically, so that golden bytes hold.
func marshal(m gproto.Message, limit int) ([]byte, error) {
	b, err := gproto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%d bytes, want at most %d", len(b), limit)
	}
	return b, nil
}

// unmarshal forgets unknown fields: nothing looks at them. A decoder allocates at most a small multiple of what it reads, so the limit on
// len(b) bounds the memory too.
func unmarshal(b []byte, m gproto.Message, limit int) error {
	if len(b) > limit {
		return fmt.Errorf("%d bytes, want at most %d", len(b), limit)
	}
	return gproto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m)
}
