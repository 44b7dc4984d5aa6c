package offload

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

func TestSum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 2048)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	for n := range 700 {
		for _, from := range []int{0, 1, 7, 32} {
			in := b[from : from+n]
			want := naiveSum(in)
			var got [2]byte
			binary.NativeEndian.PutUint16(got[:], sum(0).addBytes(in).fold())
			if g := binary.BigEndian.Uint16(got[:]); g != want {
				t.Fatalf("sum of %d bytes at %d: got %#x, want %#x", n, from, g, want)
			}
		}
	}
}

// Ones bring the most carries.
func TestSumOfOnes(t *testing.T) {
	b := bytes.Repeat([]byte{0xff}, maxPacket)
	for n := 0; n < len(b); n += 1234 {
		if got := sum(0xffffffffffffffff).addBytes(b[:n]).fold(); got != 0xffff {
			t.Errorf("%d bytes: got %#x, want 0xffff", n, got)
		}
	}
}

func BenchmarkSum(b *testing.B) {
	in := make([]byte, 1380)
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		sum(0).addBytes(in)
	}
}
