package clamp

import (
	"bytes"
	"encoding/binary"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func pieces(p packet, limit int) (out [][]byte) {
	p.fragment(limit, 7, func(b []byte) { out = append(out, bytes.Clone(b)) })
	return out
}

// payload returns the bytes 0, 1, 2 ...
func payload(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// joined puts fragments together again, which must come in order and without gaps.
func joined(t testing.TB, pieces [][]byte, limit int) (payload []byte, first uint16, more bool) {
	t.Helper()
	for i, b := range pieces {
		p := parsed(t, b)
		if len(b) > limit {
			t.Fatalf("a piece of %d bytes, limit %d", len(b), limit)
		}
		var offset uint16
		rest := b[p.header:]
		if p.v4 {
			if !header.IPv4(b).IsChecksumValid() {
				t.Fatalf("piece %d: wrong checksum", i)
			}
			offset, more = p.fragmentField()&offsetMask, p.fragmentField()&flagMF != 0
		} else {
			at, next, ok := p.unfragmentable()
			if !ok || b[next] != protoFragment {
				t.Fatalf("piece %d has no Fragment header: %x", i, b)
			}
			field := binary.BigEndian.Uint16(b[at+2:])
			offset, more = field/8, field&1 != 0
			rest = b[at+fragmentHeader:]
		}
		if i == 0 {
			first = offset
		} else if int(offset-first)*8 != len(payload) {
			t.Fatalf("piece %d: offset %d, want %d", i, offset, int(first)+len(payload)/8)
		}
		if !more && i < len(pieces)-1 {
			t.Fatalf("piece %d of %d is the last", i, len(pieces))
		}
		payload = append(payload, rest...)
	}
	return payload, first, more
}

func TestFragment(t *testing.T) {
	for name, c := range map[string]struct {
		b []byte
		n int
	}{
		"IPv4": {mayFragment(ip(host4, peer4, 17, payload(1400))), 3},
		"IPv6": {ip(host6, peer6, 17, payload(1200)), 3},
	} {
		t.Run(name, func(t *testing.T) {
			p := parsed(t, c.b)
			cut := pieces(p, 600)
			got, first, more := joined(t, cut, 600)
			if len(cut) != c.n || first != 0 || more || !bytes.Equal(got, c.b[p.header:]) {
				t.Errorf("got %d pieces from %d, more %v, %x", len(cut), first, more, got)
			}
			// A fragment that is cut again stays a part of the same whole.
			inner := parsed(t, cut[1])
			again, from, more := joined(t, pieces(inner, minLimit), minLimit)
			want, at, _ := joined(t, cut[1:2], 600)
			if !bytes.Equal(again, want) || from != at || !more {
				t.Errorf("cut again: from %d, more %v", from, more)
			}
		})
	}
}

// The fragments of a packet with options, byte by byte: what RFC 791 wants copied is, the rest is not.
func TestFragmentOptions(t *testing.T) {
	options := []byte{0x94, 4, 0, 0, 7, 3, 4, optionNop} // router alert (copied), an empty record route (not)
	b := mayFragment(ip(host4, peer4, 17, append(options, payload(504)...)))
	b[0] = 0x47
	p := parsed(t, b)
	cut := pieces(p, minLimit)
	if len(cut) != 2 {
		t.Fatalf("got %d pieces", len(cut))
	}
	if got := cut[1][:24]; !bytes.Equal(got[20:], options[:4]) || got[0] != 0x46 {
		t.Errorf("got the header %x", got)
	}
	if !bytes.Equal(cut[0][20:28], options) {
		t.Errorf("the first piece has the options %x", cut[0][20:28])
	}
	if got, _, _ := joined(t, cut, minLimit); !bytes.Equal(got, payload(504)) {
		t.Errorf("got %x", got)
	}
}

// Extension headers that nodes on the way look at are in front of the Fragment header, others behind.
func TestFragmentExtensionHeaders(t *testing.T) {
	extension := func(next byte) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }
	for name, c := range map[string]struct {
		first   byte
		headers []byte
		before  int // bytes of them in front of the Fragment header
	}{
		"hop by hop":                 {protoHopByHop, extension(17), 8},
		"destination":                {protoDestOpts, extension(17), 0},
		"destination before routing": {protoDestOpts, append(extension(protoRouting), extension(17)...), 16},
		"routing, destination":       {protoRouting, append(extension(protoDestOpts), extension(17)...), 8},
	} {
		t.Run(name, func(t *testing.T) {
			b := ip(host6, peer6, c.first, append(c.headers, payload(1000)...))
			p := parsed(t, b)
			cut := pieces(p, 600)
			got, _, _ := joined(t, cut, 600)
			if want := b[headerSize6+c.before:]; !bytes.Equal(got, want) {
				t.Errorf("got %d bytes behind the Fragment header, want %d", len(got), len(want))
			}
		})
	}
}

// Whatever is cut fits together again.
func FuzzFragment(f *testing.F) {
	f.Add(mayFragment(ip(host4, peer4, 17, payload(1400))), 600)
	f.Add(ip(host6, peer6, 17, payload(1200)), 1000)
	f.Add(ip(host6, peer6, protoRouting, append([]byte{17, 0, 0, 0, 0, 0, 0, 0}, payload(1200)...)), 512)
	f.Add(parsedPieces(ip(host6, peer6, 17, payload(1240)), 1000), 512)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		p, ok := parse(b)
		limit = minLimit + int(uint(limit)%1000)
		if !ok || len(b) <= limit || !p.fragmentable() {
			return
		}
		cut := pieces(p, limit)
		if len(cut) == 0 {
			return // nonsense
		}
		got, _, _ := joined(t, cut, limit)
		if !bytes.HasSuffix(b, got) {
			t.Errorf("%x is cut into pieces of %x", b, got)
		}
	})
}

func parsedPieces(b []byte, limit int) []byte {
	p, _ := parse(b)
	return pieces(p, limit)[0]
}
