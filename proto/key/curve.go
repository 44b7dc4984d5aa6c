package key

import (
	"bytes"
	"errors"
	"slices"

	"filippo.io/edwards25519/field"
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
	one      = new(field.Element).One()
	minusOne = new(field.Element).Negate(one)
	curveA   = new(field.Element).Mult32(one, 486662)
)

// Validate reports why k can't be the public key of any WireGuard peer: it is zero, not canonical, of small order, u = -1, or on the
// twist of Curve25519 (RFC 7748, section 4.1: v^2 = u^3 + 486662 u^2 + u has no solution). About half of all 32-byte strings fail.
// Such a key has no Ed25519 counterpart, and so no libp2p peer ID.
func (k Public) Validate() error {
	if k.IsZero() {
		return ErrZero
	}
	u, err := new(field.Element).SetBytes(k[:])
	if err != nil || !bytes.Equal(u.Bytes(), k[:]) {
		return ErrNonCanonical
	}
	if u.Equal(minusOne) == 1 || slices.Contains(smallOrder[:], k) {
		return ErrSmallOrder
	}
	v2 := new(field.Element).Add(u, curveA)
	v2.Multiply(v2, u).Add(v2, one).Multiply(v2, u)
	if _, square := new(field.Element).SqrtRatio(v2, one); square != 1 {
		return ErrTwist
	}
	return nil
}

// smallOrder holds the encodings of the points of order 8 (RFC 7748, section 6.1 leaves their list to the reader). Those of the orders 1, 2
// and 4 are u = 0, which is [ErrZero], 1, and -1; non-canonical encodings of all are refused before.
var smallOrder = [...]Public{
	{1},
	{0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
		0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
	{0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
		0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57},
}
