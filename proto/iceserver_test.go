package proto

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	gproto "google.golang.org/protobuf/proto"

	"github.com/wice-go/wice-go/proto/pb"
)

func TestParseICEServer(t *testing.T) {
	for _, c := range []struct {
		in, out string // out: String
		want    ICEServer
	}{
		{"stun:192.0.2.1", "stun:192.0.2.1:3478", ICEServer{STUN, "192.0.2.1", 3478, TransportUDP, "", ""}},
		{"stun:192.0.2.1:19302", "stun:192.0.2.1:19302", ICEServer{STUN, "192.0.2.1", 19302, TransportUDP, "", ""}},
		{"STUN:stun.example.com", "stun:stun.example.com:3478", ICEServer{STUN, "stun.example.com", 3478, TransportUDP, "", ""}},
		{"stun:[2001:db8::1]", "stun:[2001:db8::1]:3478", ICEServer{STUN, "2001:db8::1", 3478, TransportUDP, "", ""}},
		{"stun:[2001:db8::1]:1", "stun:[2001:db8::1]:1", ICEServer{STUN, "2001:db8::1", 1, TransportUDP, "", ""}},
		{"stuns:host", "stuns:host:5349", ICEServer{STUNS, "host", 5349, TransportTCP, "", ""}},
		{"turn:user:secret@host", "turn:user:(hidden)@host:3478?transport=udp", ICEServer{TURN, "host", 3478, TransportUDP, "user", "secret"}},
		{"turn:user:secret@host:3478?transport=tcp", "turn:user:(hidden)@host:3478?transport=tcp", ICEServer{TURN, "host", 3478, TransportTCP, "user", "secret"}},
		{"turns:user:secret@host", "turns:user:(hidden)@host:5349?transport=tcp", ICEServer{TURNS, "host", 5349, TransportTCP, "user", "secret"}},
		{"turns:user:secret@[::1]:443?transport=udp", "turns:user:(hidden)@[::1]:443?transport=udp", ICEServer{TURNS, "::1", 443, TransportUDP, "user", "secret"}},
		{"turn:17%3Auser:a%40b:c/+==@host", "turn:17%3Auser:(hidden)@host:3478?transport=udp", ICEServer{TURN, "host", 3478, TransportUDP, "17:user", "a@b:c/+=="}},
	} {
		got, err := ParseICEServer(c.in)
		if err != nil || got != c.want {
			t.Errorf("%s: got %#v, %v; want %#v", c.in, got, err, c.want)
			continue
		}
		if got.String() != c.out {
			t.Errorf("%s: got %s, want %s", c.in, got, c.out)
		}
		if back, err := ParseICEServer(got.URI()); err != nil || back != got {
			t.Errorf("%s: the URI is read as %#v, %v", c.in, back, err)
		}
	}
}

func TestParseICEServerRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                                     "no scheme",
		"host":                                 "no scheme",
		"host:3478":                            "unknown scheme",
		"http:host":                            "unknown scheme",
		"stun:":                                "host",
		"stun://host":                          "no //",
		"stun:host:0":                          "port 0",
		"stun:host:65536":                      "port",
		"stun:host:":                           "port",
		"stun:2001:db8::1":                     "host",
		"stun:[host]":                          "brackets",
		"stun:[192.0.2.1]:1":                   "brackets",
		"stun:[::1":                            "host",
		"stun:0.0.0.0":                         "no address of a server",
		"stun:[ff02::1]":                       "no address of a server",
		"stun:[::ffff:0.0.0.0]":                "no address of a server",
		"stun:[fe80::1%eth0]":                  "zone",
		"stun:ho st":                           "0x20",
		"stun:ho/st":                           "DNS name",
		"stun:user:geheim@host":                "takes no user",
		"stun:host?transport=udp":              "no transport",
		"turn:host":                            "needs user and secret",
		"turn:user@host":                       "needs user and secret",
		"turn:user:@host":                      "needs user and secret",
		"turn:user:geheim:host":                "needs user and secret",
		"turn::geheim@host":                    "needs user and secret",
		"turn:user:geheim%@host":               "%25",
		"turn:user:geheim%00@host":             "control",
		"turn:user:geheim%ff@host":             "UTF-8",
		"turn:user:geheim@host?x=y":            "unknown query",
		"turn:user:geheim@host?transport":      "unknown query",
		"turn:user:geheim@host?transport=sctp": "unknown transport",
		"turn:" + strings.Repeat("u", 509) + ":geheim@host":   "user: 509",
		"turn:user:" + strings.Repeat("geheim", 99) + "@host": "secret: 594",
		"stun:" + strings.Repeat("h", 254):                    "254",
	} {
		got, err := ParseICEServer(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v; want %q", in, got, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: the error tells the secret: %v", in, err)
		}
	}
}

func TestICEServerHidesTheSecret(t *testing.T) {
	s := ICEServer{TURN, "host", 3478, TransportUDP, "user", "geheim"}
	var b bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		fmt.Fprintf(&b, verb, s)
		fmt.Fprintf(&b, verb, &s)
		fmt.Fprintf(&b, verb, []ICEServer{s})
	}
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "server", s, "servers", []ICEServer{s})
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "server", s, "servers", []ICEServer{s})
	json.NewEncoder(&b).Encode(map[string]any{"a": s, "b": []*ICEServer{&s}})
	if strings.Contains(b.String(), "geheim") || !strings.Contains(b.String(), "(hidden)") {
		t.Errorf("got %s", b.String())
	}
}

func FuzzParseICEServer(f *testing.F) {
	for _, s := range []string{"stun:192.0.2.1", "stun:[2001:db8::1]:1", "stuns:host", "turn:u%3A:s%40%20+@host:1?transport=tcp", "turns:u:s@[::1]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := ParseICEServer(in)
		if err != nil {
			return
		}
		if back, err := ParseICEServer(s.URI()); err != nil || back != s {
			t.Errorf("%q: the URI %q is read as %#v, %v", in, s.URI(), back, err)
		}
		if len(s.Password) > 8 && strings.Contains(s.String(), s.Password) && !strings.Contains(s.Username+s.Host+"transport=(hidden)", s.Password) {
			t.Errorf("%q: %s shows the secret", in, s)
		}
	})
}

func goldenCredentials() *ICECredentials {
	return &ICECredentials{
		Servers: []ICEServer{
			{STUN, "192.0.2.1", 3478, TransportUDP, "", ""},
			{TURN, "2001:db8::1", 3478, TransportTCP, "1785585600:peer", "secret"},
			{TURNS, "turn.example.com", 443, TransportTCP, "1785585600:peer", "secret"},
			{STUNS, "turn.example.com", 443, TransportTCP, "", ""},
		},
		Expires: time.Unix(1785585600, 0),
	}
}

func TestICECredentialsGolden(t *testing.T) {
	want := goldenCredentials()
	b, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, "ice_credentials.hex", b)
	got, err := UnmarshalICECredentials(b)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Servers, want.Servers) || !got.Expires.Equal(want.Expires) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	empty, err := UnmarshalICECredentials(nil)
	if err != nil || len(empty.Servers) != 0 || !empty.Expires.IsZero() {
		t.Errorf("got %+v, %v; want nothing that never expires", empty, err)
	}
}

func TestICECredentialsLimits(t *testing.T) {
	largest := &ICECredentials{Expires: time.Unix(maxUnix, 0)}
	for range MaxICEServers {
		largest.Servers = append(largest.Servers, ICEServer{TURNS, strings.Repeat("h", MaxHost), 65535, TransportTCP,
			strings.Repeat("u", MaxUsername), strings.Repeat("p", MaxPassword)})
	}
	b, err := largest.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := UnmarshalICECredentials(b); err != nil {
		t.Error(err)
	}
	largest.Servers = append(largest.Servers, largest.Servers[0])
	if _, err := largest.Marshal(); err == nil {
		t.Error("got no error for too many servers")
	}
	if _, err := UnmarshalICECredentials(make([]byte, MaxICECredentialsSize+1)); err == nil {
		t.Error("got no error for too long a message")
	}
	valid := &pb.ICEServer{Scheme: 1, Host: "host", Port: 1, Transport: 1}
	for want, m := range map[string]*pb.ICECredentials{
		"servers: 17":           {Servers: slices.Repeat([]*pb.ICEServer{valid}, 17)},
		"expires: -1":           {Expires: -1},
		"expires: 253402300800": {Expires: maxUnix + 1},
		"servers[1]: port 0":    {Servers: []*pb.ICEServer{valid, {Scheme: 1, Host: "host", Transport: 1}}},
		"servers[0]: port 6553": {Servers: []*pb.ICEServer{{Scheme: 1, Host: "host", Transport: 1, Port: 65536}}},
		"servers[0]: host":      {Servers: []*pb.ICEServer{{Scheme: 1, Port: 1, Transport: 1, Host: "h\n"}}},
		"servers[0]: a TURN":    {Servers: []*pb.ICEServer{{Scheme: 3, Port: 1, Transport: 1, Host: "h"}}},
		"servers[0]: secret: c": {Servers: []*pb.ICEServer{{Scheme: 3, Port: 1, Transport: 1, Host: "h", Username: "u", Password: "\n"}}},
	} {
		b, err := gproto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := UnmarshalICECredentials(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %+v, %v", want, got, err)
		}
	}
}

func TestICECredentialsFromNewerRendezvous(t *testing.T) {
	b, err := gproto.Marshal(&pb.ICECredentials{Servers: []*pb.ICEServer{
		{Scheme: 99, Host: "host", Port: 1, Transport: 1},
		{Scheme: 1, Host: "host", Port: 1, Transport: -1},
		{Scheme: 1, Host: "host", Port: 1, Transport: 1},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := UnmarshalICECredentials(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"stun:host:1"}, []string{got.Servers[0].String()}); diff != "" || len(got.Servers) != 1 {
		t.Errorf("got %+v", got.Servers)
	}
}

func FuzzUnmarshalICECredentials(f *testing.F) {
	f.Add(golden(f, "ice_credentials.hex"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := UnmarshalICECredentials(b)
		if err != nil {
			return
		}
		again, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		c2, err := UnmarshalICECredentials(again)
		if err != nil || !slices.Equal(c.Servers, c2.Servers) || !c.Expires.Equal(c2.Expires) {
			t.Errorf("got %+v, %v; want %+v", c2, err, c)
		}
	})
}
