// Package key has WireGuard's three kinds of keys as types of their own, so that a private key can't be printed or sent where a
// public one is meant. It is the vocabulary in which every other package names a peer.
package key

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
)

// Size is the length in bytes of every WireGuard key.
const Size = 32

var (
	// ErrFormat says that a text is not the base64 or hexadecimal form of 32 bytes.
	ErrFormat = errors.New("not a WireGuard key: want 44 characters of base64, as printed by \"wg genkey\" or \"wg pubkey\"")
	// ErrZero says that a key is all zeros, WireGuard's form of "none".
	ErrZero = errors.New("the key is all zeros")
)

// Public is a peer's Curve25519 public key: its identity.
type Public [Size]byte

// Private is a Curve25519 private key. It never prints.
type Private [Size]byte

// Preshared is the symmetric key that two peers may mix into their handshake. It never prints.
type Preshared [Size]byte

// NewPrivate draws a private key from the system's random source and clamps it as RFC 7748, section 5 asks.
func NewPrivate() Private {
	var k Private
	rand.Read(k[:]) // never fails since Go 1.24
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k
}

// NewPreshared draws a preshared key from the system's random source.
func NewPreshared() Preshared {
	var k Preshared
	rand.Read(k[:])
	return k
}

// ParsePublic reads the base64 form of a public key, and refuses what no private key can have (see [Public.Validate]).
func ParsePublic(s string) (Public, error) {
	k, err := parse(s)
	if err != nil {
		return Public{}, err
	}
	return Public(k), Public(k).Validate()
}

// ParsePrivate reads the base64 form of a private key.
func ParsePrivate(s string) (Private, error) {
	k, err := parse(s)
	if err == nil && Private(k).IsZero() {
		err = ErrZero
	}
	return Private(k), err
}

// ParsePreshared reads the base64 form of a preshared key. The zero key is allowed: it means "none".
func ParsePreshared(s string) (Preshared, error) {
	k, err := parse(s)
	return Preshared(k), err
}

// ParsePublicHex reads the hexadecimal form that WireGuard's UAPI uses, without the checks of [Public.Validate].
func ParsePublicHex(s string) (Public, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != Size {
		return Public{}, fmt.Errorf("%q is not the hexadecimal form of a WireGuard key", s)
	}
	return Public(b), nil
}

// ParsePrivateHex reads the hexadecimal form of a private key that WireGuard's UAPI uses. The zero key is allowed: it means "none".
func ParsePrivateHex(s string) (Private, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != Size {
		return Private{}, errors.New("not the hexadecimal form of a WireGuard key") // which is not told: it is a secret
	}
	return Private(b), nil
}

func parse(s string) (k [Size]byte, err error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != Size || len(s) != base64.StdEncoding.EncodedLen(Size) {
		return k, ErrFormat
	}
	return [Size]byte(b), nil
}

// String returns the base64 form, as in configuration files.
func (k Public) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// Short returns the first eight characters of the base64 form, for lists and logs.
func (k Public) Short() string { return k.String()[:8] }

// Hex returns the form that WireGuard's UAPI uses.
func (k Public) Hex() string { return hex.EncodeToString(k[:]) }

// IsZero reports whether k is WireGuard's form of "none".
func (k Public) IsZero() bool { return k == Public{} }

// Compare orders keys bytewise. Of two peers the smaller one is ICE-controlling.
func (k Public) Compare(o Public) int { return bytes.Compare(k[:], o[:]) }

// MarshalText implements [encoding.TextMarshaler].
func (k Public) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (k *Public) UnmarshalText(b []byte) (err error) { *k, err = ParsePublic(string(b)); return err }

// String hides the key.
func (Private) String() string { return "(hidden)" }

// GoString hides the key from %#v too.
func (Private) GoString() string { return "key.Private(hidden)" }

// Format hides the key from every other verb.
func (k Private) Format(f fmt.State, _ rune) { f.Write([]byte(k.String())) }

// Base64 gives the key away, for a configuration file or a pipe.
func (k Private) Base64() string { return base64.StdEncoding.EncodeToString(k[:]) }

// Hex gives the key away in the form that WireGuard's UAPI uses.
func (k Private) Hex() string { return hex.EncodeToString(k[:]) }

// IsZero reports whether k is WireGuard's form of "none".
func (k Private) IsZero() bool { return k == Private{} }

// Public computes the public key that belongs to k.
func (k Private) Public() Public {
	p, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		panic("key: " + err.Error()) // only for a wrong length, which the type excludes
	}
	return Public(p.PublicKey().Bytes())
}

// String hides the key.
func (Preshared) String() string { return "(hidden)" }

// GoString hides the key from %#v too.
func (Preshared) GoString() string { return "key.Preshared(hidden)" }

// Format hides the key from every other verb.
func (k Preshared) Format(f fmt.State, _ rune) { f.Write([]byte(k.String())) }

// Base64 gives the key away, for a configuration file or a pipe.
func (k Preshared) Base64() string { return base64.StdEncoding.EncodeToString(k[:]) }

// Hex gives the key away in the form that WireGuard's UAPI uses.
func (k Preshared) Hex() string { return hex.EncodeToString(k[:]) }

// IsZero reports whether k is WireGuard's form of "none".
func (k Preshared) IsZero() bool { return k == Preshared{} }
