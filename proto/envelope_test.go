package proto

import (
	"bytes"
	"testing"
	"time"

	"github.com/wice-go/wice-go/proto/key"
)

func goldenEnvelope() *Envelope {
	e := &Envelope{Sealed: bytes.Repeat([]byte{0x5a}, SealOverhead+1)}
	for i := range e.Recipient {
		e.Recipient[i] = byte(i + 1)
	}
	return e
}

func TestEnvelopeGolden(t *testing.T) {
	want := goldenEnvelope()
	b, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, "envelope.hex", b)
	got, err := UnmarshalEnvelope(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if got.Recipient != want.Recipient || !bytes.Equal(got.Sealed, want.Sealed) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestEnvelopeRefuses(t *testing.T) {
	for name, e := range map[string]*Envelope{
		"no recipient": {Sealed: make([]byte, SealOverhead)},
		"no seal":      {Recipient: key.Public{1}},
		"short seal":   {Recipient: key.Public{1}, Sealed: make([]byte, SealOverhead-1)},
		"long seal":    {Recipient: key.Public{1}, Sealed: make([]byte, MaxPayloadSize+SealOverhead+1)},
	} {
		if _, err := e.Marshal(); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	b := golden(t, "envelope.hex")
	for name, bad := range map[string][]byte{
		"empty":           nil,
		"cut":             b[:len(b)-1],
		"short recipient": append([]byte{10, 1, 1}, b[34:]...),
		"too long":        append(b, make([]byte, MaxEnvelopeSize)...),
	} {
		if e, err := UnmarshalEnvelope(bad); err == nil {
			t.Errorf("%s: got %+v and no error", name, e)
		}
	}
}

func FuzzUnmarshalEnvelope(f *testing.F) {
	f.Add(golden(f, "envelope.hex"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := UnmarshalEnvelope(b)
		if err != nil {
			return
		}
		again, err := e.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		e2, err := UnmarshalEnvelope(again)
		if err != nil || e2.Recipient != e.Recipient || !bytes.Equal(e2.Sealed, e.Sealed) {
			t.Errorf("got %+v, %v; want %+v", e2, err, e)
		}
	})
}

// TestTimestampVector is the example of the TAI64 specification, adapted to ten leap seconds, as in WireGuard.
func TestTimestampVector(t *testing.T) {
	ts := TimestampOf(time.Unix(1, 2))
	if want := (Timestamp{0x40, 7: 0x0b, 11: 2}); ts != want {
		t.Errorf("got %x, want %x", ts, want)
	}
	if got := ts.Time(); !got.Equal(time.Unix(1, 2)) {
		t.Errorf("got %v", got)
	}
}

func TestTimestampOrder(t *testing.T) {
	now := time.Unix(1_700_000_000, 999_999_998)
	ts := TimestampOf(now)
	for i := 1; i < 5; i++ {
		next := ts.Next()
		if next.Compare(ts) <= 0 || ts.Compare(next) >= 0 || next.Compare(next) != 0 {
			t.Fatalf("%x does not follow %x", next, ts)
		}
		if want := now.Add(time.Duration(i)); !next.Time().Equal(want) {
			t.Fatalf("got %v, want %v", next.Time(), want)
		}
		ts = next
	}
	if before := TimestampOf(time.Time{}); before.Validate() != nil || before.Time().Unix() != 0 {
		t.Errorf("a time before 1970 gives %x", before)
	}
	if (Timestamp{}).Compare(TimestampOf(time.Time{})) >= 0 || !(Timestamp{}).IsZero() || !(Timestamp{}).Time().IsZero() {
		t.Error("the zero value is not before every label")
	}
	if err := (Timestamp{0x80}).Validate(); err == nil {
		t.Error("a label past the end of TAI64 is valid")
	}
}

func TestNames(t *testing.T) {
	for i := range CandidateType(6) {
		got, err := ParseCandidateType(i.String())
		if valid := i >= Host && i <= Relay; valid != (err == nil) || valid && got != i {
			t.Errorf("%v: got %v, %v", i, got, err)
		}
	}
	for i := range NetworkType(6) {
		got, err := ParseNetworkType(i.String())
		if valid := i >= UDP4 && i <= TCP6; valid != (err == nil) || valid && got != i {
			t.Errorf("%v: got %v, %v", i, got, err)
		}
	}
	if got := (SessionID{0xab, 15: 1}).String(); got != "ab00000000000000" {
		t.Errorf("got %s", got)
	}
}
