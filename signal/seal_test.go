package signal

import (
	"bytes"
	"encoding/hex"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
)

// fixedKeys are the two of RFC 7748, section 6.1.
func fixedKeys(t testing.TB) (alice, bob key.Private) {
	t.Helper()
	for k, text := range map[*key.Private]string{
		&alice: "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=",
		&bob:   "XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=",
	} {
		var err error
		if *k, err = key.ParsePrivate(text); err != nil {
			t.Fatal(err)
		}
	}
	return alice, bob
}

// goldenEnvelope is one from Alice to Bob with the payload "golden" and an ephemeral key of 32 bytes 0x11.
func goldenEnvelope(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/envelope.hex")
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSealGolden(t *testing.T) {
	alice, bob := fixedKeys(t)
	sealer := newSealer(alice)
	sealer.random = bytes.NewReader(bytes.Repeat([]byte{0x11}, 32))
	got, err := sealer.seal(bob.Public(), []byte("golden"))
	if err != nil {
		t.Fatal(err)
	}
	if want := goldenEnvelope(t); !bytes.Equal(got, want) {
		t.Errorf("got\n%x, want\n%x", got, want)
	}
	e, err := proto.UnmarshalEnvelope(goldenEnvelope(t))
	if err != nil {
		t.Fatal(err)
	}
	from, payload, err := newSealer(bob).open(e)
	if err != nil || from != alice.Public() || string(payload) != "golden" {
		t.Errorf("got %q from %v, %v", payload, from, err)
	}
	if want := len("golden") + proto.SealOverhead; len(e.Sealed) != want {
		t.Errorf("got %d sealed bytes, want %d", len(e.Sealed), want)
	}
}

func TestSealHidesTheSender(t *testing.T) {
	alice, bob := fixedKeys(t)
	public := alice.Public()
	payload := []byte("a payload that is long enough")
	first, err := newSealer(alice).seal(bob.Public(), payload)
	if err != nil {
		t.Fatal(err)
	}
	second, err := newSealer(alice).seal(bob.Public(), payload)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(first, public[:]) || bytes.Contains(first, payload) {
		t.Error("the envelope shows its sender or its payload")
	}
	if bytes.Equal(first[40:72], second[40:72]) {
		t.Error("two envelopes have the same ephemeral key")
	}
}

// TestOpenRefusesEveryDamage flips each bit of the seal.
func TestOpenRefusesEveryDamage(t *testing.T) {
	_, bob := fixedKeys(t)
	e, err := proto.UnmarshalEnvelope(goldenEnvelope(t))
	if err != nil {
		t.Fatal(err)
	}
	opener := newSealer(bob)
	for i := range e.Sealed {
		bad := bytes.Clone(e.Sealed)
		bad[i] ^= 1
		if i == 31 {
			bad[i] ^= 0x81 // the topmost bit of a Curve25519 key means nothing to X25519, but is part of what Noise authenticates
		}
		if from, payload, err := opener.open(&proto.Envelope{Recipient: e.Recipient, Sealed: bad}); err == nil {
			t.Fatalf("byte %d changed: got %q from %v", i, payload, from)
		}
	}
	for n := range len(e.Sealed) {
		if _, _, err := opener.open(&proto.Envelope{Recipient: e.Recipient, Sealed: e.Sealed[:n]}); err == nil {
			t.Fatalf("cut to %d bytes: got no error", n)
		}
	}
	lowOrder := bytes.Clone(e.Sealed)
	clear(lowOrder[:32])
	if _, _, err := opener.open(&proto.Envelope{Recipient: e.Recipient, Sealed: lowOrder}); err == nil {
		t.Error("an ephemeral key of small order is accepted")
	}
	if _, _, err := newSealer(key.NewPrivate()).open(e); err == nil {
		t.Error("another identity opens the seal")
	}
}

func TestSealReportsTheRandomSource(t *testing.T) {
	alice, bob := fixedKeys(t)
	sealer := newSealer(alice)
	sealer.random = bytes.NewReader(nil)
	if _, err := sealer.seal(bob.Public(), nil); err == nil || !strings.Contains(err.Error(), io.EOF.Error()) {
		t.Errorf("got %v, want %v", err, io.EOF)
	}
}

// FuzzOpen is what anyone can send who knows our public key.
func FuzzOpen(f *testing.F) {
	_, bob := fixedKeys(f)
	opener := newSealer(bob)
	golden := goldenEnvelope(f)
	f.Add(golden)
	f.Add(golden[:40])
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := proto.UnmarshalEnvelope(b)
		if err != nil {
			return
		}
		if from, payload, err := opener.open(e); err == nil && string(payload) != "golden" {
			t.Errorf("forged: got %q from %v", payload, from)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	alice, bob := fixedKeys(b)
	s, to, payload := newSealer(alice), bob.Public(), make([]byte, 600)
	for b.Loop() {
		if _, err := s.seal(to, payload); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	_, bob := fixedKeys(b)
	s := newSealer(bob)
	e, err := proto.UnmarshalEnvelope(goldenEnvelope(b))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, _, err := s.open(e); err != nil {
			b.Fatal(err)
		}
	}
}
