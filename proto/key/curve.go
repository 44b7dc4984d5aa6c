package key

import (
	"crypto/ecdh"
	"errors"
	"math/big"
)

var (
	// ErrTwist says that the bytes are a point of the curve's twist: no private key leads there, so a digit was lost or mistyped.
	ErrTwist = errors.New("no private key belongs to this public key (it is on the twist of Curve25519): a character is probably wrong")
	// ErrSmallOrder says that the key is one of the few with which every shared secret is the same.
	ErrSmallOrder = errors.New("the public key is a point of small order: anyone could impersonate its owner")
	// ErrNonCanonical says that the key is not below 2^255-19.
	ErrNonCanonical = errors.New("the public key is not in its canonical form (below 2^255-19)")
)

var (
	prime    = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	minusOne = new(big.Int).Sub(prime, big.NewInt(1))
	curveA   = big.NewInt(486662)
)

// Validate reports why k can't be the public key of any WireGuard peer: it is zero, not canonical, of small order, u = -1, or on the
// twist of Curve25519 (RFC 7748, section 4.1: v^2 = u^3 + 486662 u^2 + u has no solution). About half of all 32-byte strings fail.
// Such a key has no Ed25519 counterpart, and so no libp2p peer ID.
func (k Public) Validate() error {
	if k.IsZero() {
		return ErrZero
	}
	var be [Size]byte
	for i, b := range k {
		be[Size-1-i] = b
	}
	u := new(big.Int).SetBytes(be[:])
	if u.Cmp(prime) >= 0 {
		return ErrNonCanonical
	}
	if u.Cmp(minusOne) == 0 || smallOrder(k) {
		return ErrSmallOrder
	}
	v2 := new(big.Int).Add(u, curveA) // u + A
	v2.Mul(v2, u).Add(v2, big.NewInt(1)).Mul(v2, u).Mod(v2, prime)
	if big.Jacobi(v2, prime) != 1 {
		return ErrTwist
	}
	return nil
}

// smallOrder uses that crypto/ecdh refuses an all-zero shared secret, which a multiple of the cofactor makes of such points alone.
func smallOrder(k Public) bool {
	pub, err := ecdh.X25519().NewPublicKey(k[:])
	if err != nil {
		return true
	}
	priv, err := ecdh.X25519().NewPrivateKey(make([]byte, Size)) // clamped to 2^254
	if err != nil {
		return true
	}
	_, err = priv.ECDH(pub)
	return err != nil
}
