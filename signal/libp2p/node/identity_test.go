package node

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"testing"

	"filippo.io/edwards25519"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.step.sm/crypto/x25519"

	"github.com/wice-go/wice-go/proto/key"
)

// TestPeerIDOracle computes the Ed25519 key another way: from the private scalar, with its sign bit cleared, where the code under test
// maps the public coordinate.
func TestPeerIDOracle(t *testing.T) {
	for range 64 {
		priv := key.NewPrivate()
		scalar, err := new(edwards25519.Scalar).SetBytesWithClamping(priv[:])
		if err != nil {
			t.Fatal(err)
		}
		want := new(edwards25519.Point).ScalarBaseMult(scalar).Bytes()
		want[31] &= 0x7f

		id, err := PeerID(priv.Public())
		if err != nil {
			t.Fatal(err)
		}
		pub, err := id.ExtractPublicKey()
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := pub.Raw(); !bytes.Equal(got, want) {
			t.Fatalf("got %x, want %x", got, want)
		}
		if back, err := PublicKey(id); err != nil || back != priv.Public() {
			t.Fatalf("back: got %v, %v; want %v", back, err, priv.Public())
		}
	}
}

// TestPeerIDGolden pins the mapping: it is part of the protocol.
func TestPeerIDGolden(t *testing.T) {
	k, err := key.ParsePublic("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=") // RFC 7748, section 6.1
	if err != nil {
		t.Fatal(err)
	}
	const want = "12D3KooWJWRuCsfLc64vuG6UGbDAWLg3Qdqjy7yHL8vHGACURynn" // y = (u-1)/(u+1), computed elsewhere
	id, err := PeerID(k)
	if err != nil || id.String() != want {
		t.Errorf("got %s, %v; want %s", id, err, want)
	}
}

func TestSignaturesVerify(t *testing.T) {
	msg := []byte("a message")
	for range 16 {
		priv := key.NewPrivate()
		k, err := NewPrivateKey(priv)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := k.Sign(msg)
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := k.GetPublic().Raw()
		if !ed25519.Verify(raw, msg, sig) {
			t.Error("crypto/ed25519 refuses the signature")
		}
		pub := priv.Public()
		if !x25519.Verify(pub[:], msg, sig) {
			t.Error("XEdDSA refuses the signature")
		}
		if ok, _ := k.GetPublic().Verify(append(msg, '!'), sig); ok {
			t.Error("the signature fits another message")
		}
	}
}

func TestRaw(t *testing.T) {
	priv := key.NewPrivate()
	k, err := NewPrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	a, err := k.Raw()
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := k.Raw(); !bytes.Equal(a, b) {
		t.Error("Raw changes")
	}
	if bytes.Equal(a, priv[:]) {
		t.Error("Raw gives the WireGuard key away")
	}
	m, err := crypto.MarshalPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := crypto.UnmarshalPrivateKey(m); err == nil {
		t.Error("what libp2p stores can be read back as another key")
	}
	if bytes.Contains(m, priv[:]) {
		t.Error("what libp2p stores has the WireGuard key")
	}
	other, _ := NewPrivateKey(key.NewPrivate())
	if !k.Equals(k) || k.Equals(other) {
		t.Error("Equals is wrong")
	}
}

func TestKeysWithoutPeerID(t *testing.T) {
	var zero key.Public
	minusOne := key.Public{0xec}
	for i := 1; i < 31; i++ {
		minusOne[i] = 0xff
	}
	minusOne[31] = 0x7f
	for _, k := range []key.Public{zero, {1}, {2}, minusOne} {
		if id, err := PeerID(k); err == nil {
			t.Errorf("%x: got %s, want an error", k, id)
		}
	}
	if _, err := NewPrivateKey(key.Private{}); err == nil {
		t.Error("the zero private key is accepted")
	}
}

func TestForeignPeerIDs(t *testing.T) {
	k, err := NewPrivateKey(key.NewPrivate())
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := k.GetPublic().Raw()
	flipped := bytes.Clone(raw)
	flipped[31] |= 0x80
	pub, err := crypto.UnmarshalEd25519PublicKey(flipped)
	if err != nil {
		t.Fatal(err)
	}
	negative, err := peer.IDFromPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	_, secp, err := crypto.GenerateSecp256k1Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := peer.IDFromPublicKey(secp)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []peer.ID{"", "x", negative, foreign} {
		if k, err := PublicKey(id); !errors.Is(err, ErrNotWireGuard) {
			t.Errorf("%q: got %v, %v", id, k, err)
		}
	}
}

// FuzzPublicKey checks that whatever maps to a WireGuard key maps back to the same peer ID: no two IDs are one peer.
func FuzzPublicKey(f *testing.F) {
	for range 4 {
		k := key.NewPrivate().Public()
		id, err := PeerID(k)
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(id))
	}
	zero, _ := base64.StdEncoding.DecodeString("ACQIARIgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	f.Add(zero)
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := PublicKey(peer.ID(b))
		if err != nil {
			return
		}
		if back, err := PeerID(k); err != nil || string(back) != string(b) {
			t.Fatalf("%x is the peer ID of %s, but that one has %x (%v)", b, k, string(back), err)
		}
	})
}
