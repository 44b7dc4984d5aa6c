// Package node has what both ends of the libp2p signaling share: the identity that follows from a WireGuard key, a lean host and
// the two stream protocols.
//
// A Curve25519 key signs as an Ed25519 key by XEdDSA (signal.org/docs/specifications/xeddsa), and the Ed25519 public key, with the
// sign bit zero, is computed from the Curve25519 public key alone. So whoever knows a peer's WireGuard public key knows its libp2p
// peer ID, and a connection to that peer ID proves that the other end holds the WireGuard private key.
//
// The protocols, each one short stream:
//
//	/wice/signal/1.0.0       client -> peer        length (4 bytes, big endian), envelope;  answer: one byte, 1 = taken
//	/wice/ice-servers/1.0.0  client -> rendezvous  (nothing);                               answer: length, ICE credentials
package node

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/crypto/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.step.sm/crypto/x25519"

	"github.com/wice-go/wice-go/proto/key"
)

// ErrNotWireGuard says that a libp2p peer ID does not come from a WireGuard key.
var ErrNotWireGuard = errors.New("the libp2p peer ID does not come from a WireGuard key")

// rawLabel separates what [PrivateKey.Raw] gives away from everything else that is derived from the WireGuard key.
const rawLabel = "wice libp2p identity raw v1"

// PrivateKey is a WireGuard private key in the role of a libp2p Ed25519 key. It is safe for concurrent use.
type PrivateKey struct {
	wg  key.Private
	pub crypto.PubKey
}

var _ crypto.PrivKey = (*PrivateKey)(nil)

// NewPrivateKey returns the libp2p form of a WireGuard private key.
func NewPrivateKey(k key.Private) (*PrivateKey, error) {
	if k.IsZero() {
		return nil, fmt.Errorf("libp2p identity: %w", key.ErrZero)
	}
	pub, err := edwards(k.Public())
	if err != nil {
		return nil, fmt.Errorf("libp2p identity: %w", err)
	}
	p, err := crypto.UnmarshalEd25519PublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("libp2p identity: %w", err)
	}
	return &PrivateKey{wg: k, pub: p}, nil
}

// Sign signs by XEdDSA; an ordinary Ed25519 verifier accepts the signature.
func (k *PrivateKey) Sign(msg []byte) ([]byte, error) { return x25519.Sign(rand.Reader, k.wg[:], msg) }

// GetPublic returns the Ed25519 public key.
func (k *PrivateKey) GetPublic() crypto.PubKey { return k.pub }

// Type says Ed25519, which is what the signatures are.
func (k *PrivateKey) Type() pb.KeyType { return pb.KeyType_Ed25519 }

// Raw returns 32 bytes derived one way from the key. libp2p seeds QUIC's reset and token keys with them, so they must not change;
// they must not be the key either, because libp2p stores and marshals what Raw returns. 32 bytes are no valid libp2p Ed25519
// private key, so reading them back as one fails, where 64 would silently become another identity.
func (k *PrivateKey) Raw() ([]byte, error) {
	return hkdf.Key(sha256.New, k.wg[:], nil, rawLabel, 32)
}

// Equals compares in constant time.
func (k *PrivateKey) Equals(o crypto.Key) bool {
	p, ok := o.(*PrivateKey)
	return ok && subtle.ConstantTimeCompare(k.wg[:], p.wg[:]) == 1
}

// PeerID computes the libp2p peer ID of the peer with that WireGuard key. It fails for what no private key leads to (see
// [key.Public.Validate]).
func PeerID(k key.Public) (peer.ID, error) {
	pub, err := edwards(k)
	if err != nil {
		return "", fmt.Errorf("peer ID of %s: %w", k, err)
	}
	p, err := crypto.UnmarshalEd25519PublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("peer ID of %s: %w", k, err)
	}
	return peer.IDFromPublicKey(p)
}

// edwards is the birational map of RFC 7748, section 4.1, to the point with sign bit 0: y = (u-1)/(u+1).
func edwards(k key.Public) (ed25519.PublicKey, error) {
	if err := k.Validate(); err != nil {
		return nil, err
	}
	u, err := new(field.Element).SetBytes(k[:])
	if err != nil {
		return nil, err
	}
	one := new(field.Element).One()
	y := new(field.Element).Add(u, one)
	return y.Invert(y).Multiply(y, u.Subtract(u, one)).Bytes(), nil
}

// PublicKey is the inverse of [PeerID]. Only Ed25519 IDs with sign bit 0 have one: -A and A share their Montgomery coordinate, and
// the holder of -A must not pass for the WireGuard peer.
func PublicKey(id peer.ID) (key.Public, error) {
	pub, err := id.ExtractPublicKey()
	if err != nil || pub.Type() != pb.KeyType_Ed25519 {
		return key.Public{}, ErrNotWireGuard
	}
	raw, err := pub.Raw()
	if err != nil || len(raw) != key.Size || raw[key.Size-1]&0x80 != 0 {
		return key.Public{}, ErrNotWireGuard
	}
	point, err := new(edwards25519.Point).SetBytes(raw)
	if err != nil {
		return key.Public{}, ErrNotWireGuard
	}
	k := key.Public(point.BytesMontgomery())
	// The way back must lead here again: this refuses non-canonical encodings of the same point.
	if back, err := edwards(k); err != nil || subtle.ConstantTimeCompare(back, raw) != 1 {
		return key.Public{}, ErrNotWireGuard
	}
	return k, nil
}
