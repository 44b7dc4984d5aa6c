package node

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestFrame(t *testing.T) {
	var buf bytes.Buffer
	if err := WriteFrame(&buf, []byte("abc"), 3); err != nil {
		t.Fatal(err)
	}
	if got, want := buf.Bytes(), []byte("\x00\x00\x00\x03abc"); !bytes.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, err := ReadFrame(&buf, 3); err != nil || string(got) != "abc" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, b := range [][]byte{nil, []byte("abcd")} {
		if err := WriteFrame(io.Discard, b, 3); !errors.Is(err, ErrFrame) {
			t.Errorf("%q: got %v, want %v", b, err, ErrFrame)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x03abc"))
	f.Add([]byte("\x00\x00\x00\x00"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte("\x00\x00\x00\x09short"))
	f.Fuzz(func(t *testing.T, in []byte) {
		const limit = 64
		b, err := ReadFrame(bytes.NewReader(in), limit)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := WriteFrame(&out, b, limit); err != nil || !bytes.HasPrefix(in, out.Bytes()) {
			t.Fatalf("%q was read as %q, which is written as %q (%v)", in, b, out.Bytes(), err)
		}
	})
}
