package proto

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
)

// ProtocolVersion is what this implementation says in its offers.
const ProtocolVersion = 1

// SessionID names one session of one side; it is drawn anew for every session.
type SessionID [16]byte

// IsZero reports whether there is no id yet.
func (id SessionID) IsZero() bool { return id == SessionID{} }

// String returns the first half in hexadecimal digits: enough to tell sessions apart in a log.
func (id SessionID) String() string { return hex.EncodeToString(id[:8]) }

// Offer is one side's view of a session, sent to the other.
type Offer struct {
	ID              SessionID   // this side's session
	RID             SessionID   // the session last accepted from the other side; zero: none yet
	Version         uint32      // one more with each offer of this session
	Candidates      []Candidate // cumulative: all gathered so far
	EOC             bool        // end of candidates
	Ufrag, Pwd      string      // ICE credentials of this session; both may be empty while there are no candidates
	ProtocolVersion uint32
	Features        []string // unknown ones are ignored

	// Unusable is how many candidates [UnmarshalOffer] left out. It is not sent.
	Unusable int
}

// LogValue tells an offer's place in its session, but not the credentials and addresses.
func (o *Offer) LogValue() slog.Value {
	return slog.GroupValue(slog.Any("id", o.ID), slog.Any("rid", o.RID), slog.Uint64("version", uint64(o.Version)),
		slog.Int("candidates", len(o.Candidates)), slog.Bool("eoc", o.EOC))
}

// Validate reports which field breaks which bound. The error never contains the password.
func (o *Offer) Validate() error {
	if err := o.validate(); err != nil {
		return err
	}
	for i := range o.Candidates {
		if err := o.Candidates[i].Validate(); err != nil {
			return fmt.Errorf("candidates[%d]: %w", i, err)
		}
	}
	return nil
}

// validate is Validate for all but the single candidates.
func (o *Offer) validate() error {
	if o.ID.IsZero() {
		return errors.New("id: all zeros")
	}
	if err := atMost("candidates", len(o.Candidates), MaxCandidates); err != nil {
		return err
	}
	if len(o.Candidates) > 0 || o.Ufrag != "" || o.Pwd != "" {
		if err := iceString("ufrag", o.Ufrag, MinUfrag, MaxUfrag); err != nil {
			return err
		}
		if err := iceString("pwd", o.Pwd, MinPwd, MaxPwd); err != nil {
			return err
		}
	}
	if err := atMost("features", len(o.Features), MaxFeatures); err != nil {
		return err
	}
	for i, f := range o.Features {
		if err := printable(f, 1, MaxFeature); err != nil {
			return fmt.Errorf("features[%d]: %w", i, err)
		}
	}
	return nil
}

func atMost(field string, n, limit int) error {
	if n > limit {
		return fmt.Errorf("%s: %d, want at most %d", field, n, limit)
	}
	return nil
}

// iceString checks for the ice-char of RFC 8839, section 5.1. What goes on into STUN attributes and logs has no other bytes.
func iceString(field, s string, shortest, longest int) error {
	if len(s) < shortest || len(s) > longest {
		return fmt.Errorf("%s: %d bytes, want %d to %d", field, len(s), shortest, longest)
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '+', c == '/':
		default:
			return fmt.Errorf("%s: byte %d is %#02x, want letters, digits, + and /", field, i, c)
		}
	}
	return nil
}

// printable checks for visible ASCII.
func printable(s string, shortest, longest int) error {
	if len(s) < shortest || len(s) > longest {
		return fmt.Errorf("%d bytes, want %d to %d", len(s), shortest, longest)
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' {
			return fmt.Errorf("byte %d is %#02x, want visible ASCII", i, c)
		}
	}
	return nil
}
