package key

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
)

// TestPublicVector is the Diffie-Hellman example of RFC 7748, section 6.1.
func TestPublicVector(t *testing.T) {
	priv, err := ParsePrivate("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := priv.Public().String(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestGeneratedKeysAreValid(t *testing.T) {
	for range 64 {
		pub := NewPrivate().Public()
		if err := pub.Validate(); err != nil {
			t.Fatalf("%v: %v", pub, err)
		}
		back, err := ParsePublic(pub.String())
		if err != nil || back != pub {
			t.Fatalf("got %v, %v; want %v", back, err, pub)
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	le := func(first byte, rest byte, last byte) (k Public) {
		for i := range k {
			k[i] = rest
		}
		k[0], k[31] = first, last
		return k
	}
	for _, c := range []struct {
		name string
		k    Public
		want error
	}{
		{"zero", Public{}, ErrZero},
		{"one", le(1, 0, 0), ErrSmallOrder},
		{"minus one", le(0xec, 0xff, 0x7f), ErrSmallOrder},
		{"the prime", le(0xed, 0xff, 0x7f), ErrNonCanonical},
		{"top bit", le(9, 0, 0x80), ErrNonCanonical},
		{"twist", le(2, 0, 0), ErrTwist},
		{"base point", le(9, 0, 0), nil},
	} {
		if err := c.k.Validate(); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

// TestSmallOrder checks the list against what small order means: every shared secret is zero, which crypto/ecdh refuses.
func TestSmallOrder(t *testing.T) {
	priv, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range smallOrder {
		pub, err := ecdh.X25519().NewPublicKey(k[:])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := priv.ECDH(pub); err == nil {
			t.Errorf("%x gives a shared secret", k)
		}
		if err := k.Validate(); !errors.Is(err, ErrSmallOrder) {
			t.Errorf("%x: got %v", k, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{"", "x", "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo", "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmp=", "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\n"} {
		if _, err := ParsePublic(s); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: got %v, want %v", s, err, ErrFormat)
		}
	}
}

func TestParsePrivateHex(t *testing.T) {
	for _, k := range []Private{NewPrivate(), {}} {
		if got, err := ParsePrivateHex(strings.ToUpper(k.Hex())); got != k || err != nil {
			t.Errorf("got another key, %v", err)
		}
		for _, s := range []string{"", "z" + k.Hex()[1:], k.Hex()[2:], k.Hex() + "00"} {
			if _, err := ParsePrivateHex(s); err == nil || s != "" && strings.Contains(err.Error(), s) {
				t.Errorf("%q: got %v", s, err)
			}
		}
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	priv, psk := NewPrivate(), NewPreshared()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
		got := fmt.Sprintf(verb+verb, priv, psk) + fmt.Sprintf(verb, struct{ K any }{priv})
		for _, secret := range []string{priv.Base64(), priv.Hex(), strings.ToUpper(priv.Hex()), psk.Base64(), psk.Hex(), fmt.Sprint(priv[0], priv[1], priv[2])} {
			if strings.Contains(got, secret) {
				t.Errorf("%s prints the key: %s", verb, got)
			}
		}
	}
}

func FuzzParsePublic(f *testing.F) {
	f.Add(NewPrivate().Public().String())
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParsePublic(s); err == nil && k.String() != s {
			t.Errorf("got %s, want %s", k, s)
		}
	})
}

// TestValidateIsEuler compares with the definition: on the curve are those whose right-hand side is a square.
func TestValidateIsEuler(t *testing.T) {
	prime := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	for range 500 {
		var k Public
		rand.Read(k[:])
		k[Size-1] &= 0x7f
		be := slices.Clone(k[:])
		slices.Reverse(be)
		u := new(big.Int).SetBytes(be)
		v2 := new(big.Int).Add(u, big.NewInt(486662))
		v2.Mul(v2, u).Add(v2, big.NewInt(1)).Mul(v2, u).Mod(v2, prime)
		if got, want := k.Validate() == nil, big.Jacobi(v2, prime) == 1; got != want {
			t.Errorf("%x: got %v, want %v", k[:], got, want)
		}
	}
}
