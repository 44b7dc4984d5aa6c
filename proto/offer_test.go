package proto

import (
	"bytes"
	"encoding/hex"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	gproto "google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/proto/pb"
)

var (
	goldenTime = TimestampOf(time.Date(2026, 8, 1, 12, 0, 0, 123456789, time.UTC))
	equal      = cmp.Options{cmpopts.EquateComparable(netip.AddrPort{}), cmpopts.EquateEmpty()}
)

func goldenOffer() *Offer {
	return &Offer{
		ID:      SessionID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
		RID:     SessionID{0xff, 15: 0xee},
		Version: 3,
		Candidates: []Candidate{
			{Type: Host, Network: UDP4, Address: netip.MustParseAddrPort("192.0.2.1:51820"), Priority: 2130706431, Foundation: "1", Component: 1},
			{Type: ServerReflexive, Network: UDP4, Address: netip.MustParseAddrPort("198.51.100.7:40000"), RelatedAddress: netip.MustParseAddrPort("0.0.0.0:9"), Priority: 1694498815, Foundation: "2", Component: 1},
			{Type: Relay, Network: UDP6, Address: netip.MustParseAddrPort("[2001:db8::2]:50000"), RelatedAddress: netip.MustParseAddrPort("[2001:db8::1]:3478"), Priority: 16777215, Foundation: "a+/", Component: 1},
			{Type: Host, Network: TCP6, Address: netip.MustParseAddrPort("[2001:db8::3]:9"), Priority: 1, Component: 1, TCPType: TCPActive},
		},
		EOC:             true,
		Ufrag:           "abcd",
		Pwd:             "0123456789abcdefghijkl",
		ProtocolVersion: ProtocolVersion,
		Features:        []string{"lazy"},
	}
}

// golden reads the bytes that this and all later versions must write and understand.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func checkGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	if want := golden(t, name); !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%x, want\n%x", name, got, want)
	}
}

func TestOfferGolden(t *testing.T) {
	want := goldenOffer()
	b, err := want.Marshal(goldenTime)
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, "payload.hex", b)
	got, ts, err := UnmarshalOffer(golden(t, "payload.hex"))
	if err != nil {
		t.Fatal(err)
	}
	if ts != goldenTime {
		t.Errorf("got timestamp %x, want %x", ts, goldenTime)
	}
	if diff := cmp.Diff(want, got, equal); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestFirstOfferGolden(t *testing.T) {
	want := &Offer{ID: SessionID{1}}
	b, err := want.Marshal(goldenTime)
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, "payload_first.hex", b)
	got, _, err := UnmarshalOffer(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, equal); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// largestOffer reaches every limit at once.
func largestOffer() *Offer {
	o := &Offer{
		ID: SessionID{1}, RID: SessionID{2}, Version: math.MaxUint32, EOC: true, ProtocolVersion: math.MaxUint32,
		Ufrag: strings.Repeat("u", MaxUfrag), Pwd: strings.Repeat("p", MaxPwd),
	}
	for range MaxFeatures {
		o.Features = append(o.Features, strings.Repeat("f", MaxFeature))
	}
	address := netip.MustParseAddrPort("[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535")
	for range MaxCandidates {
		o.Candidates = append(o.Candidates, Candidate{Type: Relay, Network: TCP6, Address: address, RelatedAddress: address, Priority: math.MaxUint32,
			Foundation: strings.Repeat("x", MaxFoundation), Component: 1, TCPType: TCPSimultaneousOpen})
	}
	return o
}

func TestLargestOfferFits(t *testing.T) {
	b, err := largestOffer().Marshal(goldenTime)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > MaxPayloadSize/2 {
		t.Errorf("got %d bytes, want at most half of %d", len(b), MaxPayloadSize)
	}
	if _, _, err := UnmarshalOffer(b); err != nil {
		t.Error(err)
	}
	e := Envelope{Recipient: key.Public{1}, Sealed: make([]byte, MaxPayloadSize+SealOverhead)}
	if _, err := e.Marshal(); err != nil {
		t.Errorf("the largest payload does not fit into an envelope: %v", err)
	}
}

// payload returns the golden one, changed by f below the checks of Marshal.
func payload(t *testing.T, f func(*pb.Payload)) []byte {
	t.Helper()
	b, err := goldenOffer().Marshal(goldenTime)
	if err != nil {
		t.Fatal(err)
	}
	var p pb.Payload
	if err := gproto.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	f(&p)
	if b, err = gproto.Marshal(&p); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestUnmarshalOfferRefuses(t *testing.T) {
	for name, f := range map[string]func(*pb.Payload){
		"timestamp: 11 bytes":            func(p *pb.Payload) { p.Timestamp = p.Timestamp[:11] },
		"timestamp: 0 bytes":             func(p *pb.Payload) { p.Timestamp = nil },
		"timestamp: 0000000000000000":    func(p *pb.Payload) { p.Timestamp = make([]byte, 12) },
		"timestamp: 1000000000 nano":     func(p *pb.Payload) { copy(p.Timestamp[8:], "\x3b\x9a\xca\x00") },
		"offer: missing":                 func(p *pb.Payload) { p.Offer = nil },
		"id: 0 bytes":                    func(p *pb.Payload) { p.Offer.Id = nil },
		"id: 17 bytes":                   func(p *pb.Payload) { p.Offer.Id = make([]byte, 17) },
		"id: all zeros":                  func(p *pb.Payload) { p.Offer.Id = make([]byte, 16) },
		"rid: 15 bytes":                  func(p *pb.Payload) { p.Offer.Rid = make([]byte, 15) },
		"candidates: 31":                 func(p *pb.Payload) { p.Offer.Candidates = make([]*pb.Candidate, 31) },
		"ufrag: 3 bytes":                 func(p *pb.Payload) { p.Offer.Ufrag = "abc" },
		"ufrag: 0 bytes":                 func(p *pb.Payload) { p.Offer.Ufrag = "" },
		"ufrag: 257 bytes":               func(p *pb.Payload) { p.Offer.Ufrag = strings.Repeat("u", 257) },
		"ufrag: byte 3 is 0x0a":          func(p *pb.Payload) { p.Offer.Ufrag = "abc\n" },
		"ufrag: byte 1 is 0x3a":          func(p *pb.Payload) { p.Offer.Ufrag = "a:cd" },
		"pwd: 21 bytes":                  func(p *pb.Payload) { p.Offer.Pwd = p.Offer.Pwd[1:] },
		"pwd: 257 bytes":                 func(p *pb.Payload) { p.Offer.Pwd = strings.Repeat("u", 257) },
		"features: 33":                   func(p *pb.Payload) { p.Offer.Features = make([]string, 33) },
		"features[0]: 0 bytes":           func(p *pb.Payload) { p.Offer.Features = []string{""} },
		"features[1]: 65 bytes":          func(p *pb.Payload) { p.Offer.Features = []string{"x", strings.Repeat("f", 65)} },
		"features[0]: byte 0 is 0x1b":    func(p *pb.Payload) { p.Offer.Features = []string{"\x1b[2J"} },
		"candidates[1]: address: 5":      func(p *pb.Payload) { p.Offer.Candidates[1].Address = make([]byte, 5) },
		"candidates[0]: address: port 6": func(p *pb.Payload) { p.Offer.Candidates[0].Port = 65536 },
		"related address: 1 bytes":       func(p *pb.Payload) { p.Offer.Candidates[0].RelatedAddress = []byte{1} },
		"related address: port":          func(p *pb.Payload) { p.Offer.Candidates[0].RelatedPort = math.MaxUint32 },
		"candidates[3]: foundation: 33":  func(p *pb.Payload) { p.Offer.Candidates[3].Foundation = strings.Repeat("1", 33) },
		"foundation: byte 1 is 0x20":     func(p *pb.Payload) { p.Offer.Candidates[0].Foundation = "1 typ" },
	} {
		o, _, err := UnmarshalOffer(payload(t, f))
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %+v, %v", name, o, err)
		}
	}
	if _, _, err := UnmarshalOffer(make([]byte, MaxPayloadSize+1)); err == nil {
		t.Error("got no error for a payload above the limit")
	}
	if _, _, err := UnmarshalOffer([]byte("not protobuf")); err == nil {
		t.Error("got no error for what is not protobuf")
	}
}

func TestErrorsHideThePassword(t *testing.T) {
	const secret = "0123456789-secret-0123"
	_, _, err := UnmarshalOffer(payload(t, func(p *pb.Payload) { p.Offer.Pwd = secret }))
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v, want an error without the password", err)
	}
}

func TestUnusableCandidatesAreLeftOut(t *testing.T) {
	for name, f := range map[string]func(*pb.Candidate){
		"unknown type":      func(c *pb.Candidate) { c.Type = 77 },
		"type 256+1":        func(c *pb.Candidate) { c.Type = 257 },
		"negative type":     func(c *pb.Candidate) { c.Type = -1 },
		"unknown network":   func(c *pb.Candidate) { c.Network = 5 },
		"wrong family":      func(c *pb.Candidate) { c.Network = pb.NetworkType_NETWORK_TYPE_UDP6 },
		"no address":        func(c *pb.Candidate) { c.Address = nil },
		"port 0":            func(c *pb.Candidate) { c.Port = 0 },
		"component 0":       func(c *pb.Candidate) { c.Component = 0 },
		"component 65537":   func(c *pb.Candidate) { c.Component = 65537 },
		"TCP role of UDP":   func(c *pb.Candidate) { c.TcpType = pb.TCPType_TCP_TYPE_PASSIVE },
		"unspecified":       func(c *pb.Candidate) { c.Address = make([]byte, 4) },
		"unspecified 6":     func(c *pb.Candidate) { c.Network, c.Address = 2, make([]byte, 16) },
		"this network":      func(c *pb.Candidate) { c.Address = []byte{0, 1, 2, 3} },
		"multicast":         func(c *pb.Candidate) { c.Address = []byte{224, 0, 0, 251} },
		"multicast 6":       func(c *pb.Candidate) { c.Network, c.Address = 2, netip.MustParseAddr("ff02::fb").AsSlice() },
		"limited broadcast": func(c *pb.Candidate) { c.Address = []byte{255, 255, 255, 255} },
	} {
		o, _, err := UnmarshalOffer(payload(t, func(p *pb.Payload) { f(p.Offer.Candidates[0]) }))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if o.Unusable != 1 || len(o.Candidates) != 3 || o.Candidates[0].Type != ServerReflexive {
			t.Errorf("%s: got %d unusable and %d others, want 1 and 3", name, o.Unusable, len(o.Candidates))
		}
	}
}

func TestMarshalRefuses(t *testing.T) {
	for name, f := range map[string]func(*Offer){
		"id":             func(o *Offer) { o.ID = SessionID{} },
		"candidates: 31": func(o *Offer) { o.Candidates = make([]Candidate, 31) },
		"candidates[2]":  func(o *Offer) { o.Candidates[2].Address = netip.MustParseAddrPort("[ff02::1]:1") },
		"IPv4-mapped":    func(o *Offer) { o.Candidates[0].Address = netip.MustParseAddrPort("[::ffff:192.0.2.1]:1") },
		"zone":           func(o *Offer) { o.Candidates[2].Address = netip.MustParseAddrPort("[fe80::1%eth0]:1") },
		"pwd":            func(o *Offer) { o.Pwd = "" },
	} {
		o := goldenOffer()
		f(o)
		if _, err := o.Marshal(goldenTime); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := goldenOffer().Marshal(Timestamp{}); err == nil {
		t.Error("got no error without a timestamp")
	}
}

// TestNewerPeer sends fields that this version does not have, on every level.
func TestNewerPeer(t *testing.T) {
	unknown := []byte{0xfa, 0x07, 3, 'n', 'e', 'w'} // field 127
	b := payload(t, func(p *pb.Payload) {
		p.ProtoReflect().SetUnknown(unknown)
		p.Offer.ProtoReflect().SetUnknown(unknown)
		p.Offer.Candidates[0].ProtoReflect().SetUnknown(unknown)
		p.Offer.ProtocolVersion = 99
		p.Offer.Features = []string{"from-the-future"}
	})
	want := goldenOffer()
	want.ProtocolVersion, want.Features = 99, []string{"from-the-future"}
	got, _, err := UnmarshalOffer(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, equal); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func drawCandidate(t *rapid.T) Candidate {
	c := Candidate{
		Type:       CandidateType(rapid.IntRange(int(Host), int(Relay)).Draw(t, "type")),
		Network:    NetworkType(rapid.IntRange(int(UDP4), int(TCP6)).Draw(t, "network")),
		Priority:   rapid.Uint32().Draw(t, "priority"),
		Foundation: rapid.StringMatching(`[a-zA-Z0-9+/]{0,32}`).Draw(t, "foundation"),
		Component:  1,
	}
	size := 4
	if c.Network.IsIPv6() {
		size = 16
	}
	draw := func(label string) netip.AddrPort {
		addr, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, label))
		return netip.AddrPortFrom(addr.Unmap(), rapid.Uint16().Draw(t, label+" port"))
	}
	c.Address = draw("address")
	if rapid.Bool().Draw(t, "related") {
		c.RelatedAddress = draw("related address")
	}
	if c.Network.IsTCP() {
		c.TCPType = TCPType(rapid.IntRange(0, 3).Draw(t, "TCP type"))
	}
	return c
}

func TestOfferRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := &Offer{
			Version:         rapid.Uint32().Draw(t, "version"),
			EOC:             rapid.Bool().Draw(t, "eoc"),
			Ufrag:           rapid.StringMatching(`[a-zA-Z0-9+/]{4,256}`).Draw(t, "ufrag"),
			Pwd:             rapid.StringMatching(`[a-zA-Z0-9+/]{22,256}`).Draw(t, "pwd"),
			ProtocolVersion: rapid.Uint32().Draw(t, "protocol version"),
			Features:        rapid.SliceOfN(rapid.StringMatching(`[!-~]{1,64}`), 0, MaxFeatures).Draw(t, "features"),
			Candidates:      rapid.SliceOfN(rapid.Custom(drawCandidate), 0, MaxCandidates).Draw(t, "candidates"),
		}
		copy(want.ID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		copy(want.RID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "rid"))
		b, err := want.Marshal(goldenTime)
		if (err == nil) != (want.Validate() == nil) {
			t.Fatalf("Marshal says %v, Validate %v", err, want.Validate())
		}
		if err != nil {
			return
		}
		got, _, err := UnmarshalOffer(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, equal); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
	})
}

func FuzzUnmarshalOffer(f *testing.F) {
	f.Add(golden(f, "payload.hex"))
	f.Add(golden(f, "payload_first.hex"))
	largest, err := largestOffer().Marshal(goldenTime)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(largest)
	f.Fuzz(func(t *testing.T, b []byte) {
		o, ts, err := UnmarshalOffer(b)
		if err != nil {
			return
		}
		if err := o.Validate(); err != nil {
			t.Fatalf("not valid: %v", err)
		}
		again, err := o.Marshal(ts)
		if err != nil {
			t.Fatal(err)
		}
		o2, ts2, err := UnmarshalOffer(again)
		if err != nil {
			t.Fatal(err)
		}
		o.Unusable = 0
		if diff := cmp.Diff(o, o2, equal); diff != "" || ts != ts2 {
			t.Errorf("-first +second:\n%s", diff)
		}
	})
}

func TestOfferLogHidesCredentials(t *testing.T) {
	var b bytes.Buffer
	o := goldenOffer()
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "offer", o)
	if got := b.String(); strings.Contains(got, o.Pwd) || !strings.Contains(got, "offer.id="+o.ID.String()+" ") || !strings.Contains(got, "offer.candidates=4") {
		t.Errorf("got %s", got)
	}
}
