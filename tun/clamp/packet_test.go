package clamp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

var (
	host4, peer4 = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	host6, peer6 = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
)

// ip returns a packet whose header is right.
func ip(src, dst netip.Addr, proto uint8, payload []byte) []byte {
	if src.Is4() {
		b := make([]byte, headerSize4, headerSize4+len(payload))
		header.IPv4(b).Encode(&header.IPv4Fields{
			TotalLength: uint16(headerSize4 + len(payload)), ID: 0x1234, TTL: 64, Protocol: proto, Flags: header.IPv4FlagDontFragment,
			SrcAddr: tcpip.AddrFrom4(src.As4()), DstAddr: tcpip.AddrFrom4(dst.As4()),
		})
		header.IPv4(b).SetChecksum(^header.IPv4(b).CalculateChecksum())
		return append(b, payload...)
	}
	b := make([]byte, headerSize6, headerSize6+len(payload))
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(payload)), TransportProtocol: tcpip.TransportProtocolNumber(proto), HopLimit: 64,
		SrcAddr: tcpip.AddrFrom16(src.As16()), DstAddr: tcpip.AddrFrom16(dst.As16()),
	})
	return append(b, payload...)
}

// mayFragment returns the packet without DF.
func mayFragment(b []byte) []byte {
	b = bytes.Clone(b)
	binary.BigEndian.PutUint16(b[6:], 0)
	binary.BigEndian.PutUint16(b[10:], 0)
	header.IPv4(b).SetChecksum(^header.IPv4(b).CalculateChecksum())
	return b
}

// syn returns a SYN with options in front of the MSS.
func syn(src, dst netip.Addr, before []byte, mss uint16) []byte {
	options := append(bytes.Clone(before), optionMSS, 4, byte(mss>>8), byte(mss))
	for len(options)%4 != 0 {
		options = append(options, optionEnd)
	}
	tcp := make([]byte, tcpHeaderSize, tcpHeaderSize+len(options))
	header.TCP(tcp).Encode(&header.TCPFields{SrcPort: 40000, DstPort: 80, SeqNum: 1, DataOffset: uint8(tcpHeaderSize + len(options)), Flags: header.TCPFlagSyn, WindowSize: 64240})
	tcp = append(tcp, options...)
	b := ip(src, dst, protoTCP, tcp)
	header.TCP(tcp).SetChecksum(^checksum.Checksum(tcp, header.PseudoHeaderChecksum(header.TCPProtocolNumber, slice(src), slice(dst), uint16(len(tcp)))))
	return append(b[:len(b)-len(tcp)], tcp...)
}

func slice(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func parsed(t testing.TB, b []byte) packet {
	t.Helper()
	p, ok := parse(b)
	if !ok {
		t.Fatalf("no packet: %x", b)
	}
	return p
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestClampMSS(t *testing.T) {
	for _, c := range []struct {
		name      string
		b         []byte
		limit     int
		got, want uint16
	}{
		{"IPv4", syn(host4, peer4, nil, 1380), 1216, 1380, 1176},
		{"IPv6", syn(host6, peer6, nil, 1360), 1216, 1360, 1156},
		{"at an odd place", syn(host4, peer4, []byte{optionNop, 3, 3, 7, 4, 2}, 1380), 1216, 1380, 1176},
		{"after one byte", syn(host6, peer6, []byte{optionNop}, 1380), 1216, 1380, 1156},
		{"small enough", syn(host4, peer4, nil, 536), 1216, 536, 536},
		{"no limit", syn(host4, peer4, nil, 1380), 0, 1380, 1380},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := parsed(t, c.b)
			if !p.syn() {
				t.Fatal("not taken for a SYN")
			}
			p.clampMSS(c.limit)
			tcp := header.TCP(c.b[p.header:])
			if got := header.ParseSynOptions(tcp.Options(), false).MSS; got != c.want {
				t.Errorf("got MSS %d, want %d", got, c.want)
			}
			if !tcp.IsChecksumValid(slice(p.src()), slice(p.dst()), 0, 0) {
				t.Errorf("the checksum of %x is wrong", c.b)
			}
		})
	}
	later := mayFragment(syn(host4, peer4, nil, 1380))
	later[7] = 1
	for name, b := range map[string][]byte{
		"data":           ip(host4, peer4, protoTCP, append(make([]byte, 12), 5<<4, 0x10, 0, 0, 0, 0, 0, 0)),
		"UDP":            ip(host4, peer4, 17, append(make([]byte, 13), flagSYN, 0, 0, 0, 0, 0, 0)),
		"short":          ip(host4, peer4, protoTCP, make([]byte, 13)),
		"later fragment": later,
	} {
		if p := parsed(t, b); p.syn() {
			t.Errorf("%s is taken for a SYN", name)
		}
	}
}

// The messages, byte by byte as RFC 792, RFC 1191 and RFC 4443 have them.
func TestTooBigGolden(t *testing.T) {
	b := ip(host4, peer4, 17, []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
	p := parsed(t, b)
	want := unhex(t, `
		45 00 003c 0000 4000 40 01 26bf 0a000002 0a000001
		03 04 d411 0000 04c0
		45 00 0020 1234 4000 40 11 1497 0a000001 0a000002
		0102 0304 0506 0708 090a 0b0c`)
	if diff := cmp.Diff(want, p.appendTooBig(nil, 1216)); diff != "" {
		t.Errorf("IPv4 (-want +got):\n%s", diff)
	}
	b = ip(host6, peer6, 17, []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
	p = parsed(t, b)
	want = unhex(t, `
		60000000 003c 3a 40 fd000000000000000000000000000002 fd000000000000000000000000000001
		02 00 6f09 00000500
		60000000 000c 11 40 fd000000000000000000000000000001 fd000000000000000000000000000002
		0102 0304 0506 0708 090a 0b0c`)
	if diff := cmp.Diff(want, p.appendTooBig(nil, 1216)); diff != "" {
		t.Errorf("IPv6 (-want +got):\n%s", diff)
	}
}

// Long packets are quoted as far as the messages may be long, and the checksums are right.
func TestTooBigLong(t *testing.T) {
	p4, p6 := parsed(t, ip(host4, peer4, protoTCP, make([]byte, 1400))), parsed(t, ip(host6, peer6, protoTCP, make([]byte, 1380)))
	m4, m6 := p4.appendTooBig(nil, 1300), p6.appendTooBig(nil, 1300)
	if len(m4) != maxICMP4 || len(m6) != maxICMP {
		t.Errorf("got %d and %d bytes, want %d and %d", len(m4), len(m6), maxICMP4, maxICMP)
	}
	if !header.IPv4(m4).IsChecksumValid() || checksum.Checksum(m4[headerSize4:], 0) != 0xffff {
		t.Errorf("a checksum of %x is wrong", m4)
	}
	pseudo := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, slice(peer6), slice(host6), uint16(len(m6)-headerSize6))
	if checksum.Checksum(m6[headerSize6:], pseudo) != 0xffff {
		t.Errorf("the checksum of %x is wrong", m6)
	}
	if got := header.ICMPv6(m6[headerSize6:]).MTU(); got != 1300 {
		t.Errorf("got MTU %d, want 1300", got)
	}
}

func TestAnswerable(t *testing.T) {
	later := mayFragment(ip(host4, peer4, 17, make([]byte, 8)))
	later[7] = 1
	for name, c := range map[string]struct {
		b    []byte
		want bool
	}{
		"UDP":                      {ip(host4, peer4, 17, make([]byte, 8)), true},
		"echo":                     {ip(host4, peer4, protoICMP, []byte{8, 0, 0, 0}), true},
		"echo over IPv6":           {ip(host6, peer6, protoICMP6, []byte{128, 0, 0, 0}), true},
		"ICMP error":               {ip(host4, peer4, protoICMP, []byte{3, 4, 0, 0}), false},
		"ICMP error over IPv6":     {ip(host6, peer6, protoICMP6, []byte{2, 0, 0, 0}), false},
		"ICMP without a type":      {ip(host4, peer4, protoICMP, nil), false},
		"to a group":               {ip(host4, netip.MustParseAddr("224.0.0.1"), 17, nil), false},
		"to a group over IPv6":     {ip(host6, netip.MustParseAddr("ff02::1"), 17, nil), false},
		"to all":                   {ip(host4, netip.MustParseAddr("255.255.255.255"), 17, nil), false},
		"from nobody":              {ip(netip.IPv4Unspecified(), peer4, 17, nil), false},
		"from nobody over IPv6":    {ip(netip.IPv6Unspecified(), peer6, 17, nil), false},
		"a fragment not the first": {later, false},
	} {
		if p := parsed(t, c.b); p.answerable() != c.want {
			t.Errorf("%s: got %v, want %v", name, !c.want, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good4, good6 := ip(host4, peer4, 17, make([]byte, 8)), ip(host6, peer6, 17, make([]byte, 8))
	long4 := append(bytes.Clone(good4), 0)
	options := bytes.Clone(good4)
	options[0] = 0x4f
	for name, b := range map[string][]byte{
		"nothing": nil, "short IPv4": good4[:19], "short IPv6": good6[:39], "cut IPv4": good4[:20], "cut IPv6": good6[:40],
		"longer than it says": long4, "header beyond the end": options, "unknown version": bytes.Repeat([]byte{0x55}, 60),
	} {
		if _, ok := parse(b); ok {
			t.Errorf("%s: parsed", name)
		}
	}
}
