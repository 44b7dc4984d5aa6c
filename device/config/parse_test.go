package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
)

const (
	privateText = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
	peerText1   = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	peerText2   = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
	pskText     = "/UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak="
)

// fullFile has every key of the three kinds, in unusual but correct spellings.
const fullFile = "\ufeff" + `# a comment
[interface]
  privatekey=` + privateText + ` # with a comment
Listen Port = 51 820
FWMARK = 0xCafe
Address = 10.0.0.1/24, 2001:db8::1/64
Address = 10.1.0.1
address = 192.168.7.1/255.255.255.0
DNS = 10.0.0.53, example.com
DNS = 2001:db8::53 corp.example
MTU = 1380
Table = 0x4d2
PreUp = echo pre %i
PostUp = echo post; ip rule add # cut here
PostUp = echo again
PreDown = echo down
PostDown = echo gone
SaveConfig = true
#!wice Signaling = libp2p:?bootstrap=/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWX&mdns=false
#!WICE signaling = kubernetes:?namespace=vpn
#!wice ICEServer = stun:192.0.2.1:3478
#!wice ICEServer = turn:user:p%40ss@[2001:db8::2]:3479?transport=tcp
#!wice CandidateTypes = host, relay
#!wice NetworkTypes = udp4,udp6
#!wice Tun = netstack
#!wice SOCKS5 = localhost:1080
#!wice HTTPProxy = alice:s3:cr@t@[::1]:8080
#!wice Forward = tcp 127.0.0.1:8080 -> 10.0.0.2:80
#!wice Forward = udp tunnel:53 -> dns.example:53
#!wice Lazy = true

[PEER]
#!wice Name = alice # the first one
PublicKey = ` + peerText1 + `
PresharedKey = ` + pskText + `
AllowedIPs = 10.0.0.2, 10.0.9.9/24,2001:db8::/32
AllowedIPs = 10.0.0.2/32
Endpoint = vpn.example.com:51820
PersistentKeepalive = 25
#!wice ICE = off
#!wice Lazy = false

[Peer]
PublicKey = ` + peerText2 + `
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = 2001:db8::7:51820
PersistentKeepalive = off
`

func ptr[T any](v T) *T { return &v }

func mustPrivate(t testing.TB, s string) key.Private {
	k, err := key.ParsePrivate(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustPublic(t testing.TB, s string) key.Public {
	k, err := key.ParsePublic(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

var byValue = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmpopts.IgnoreFields(Signaling{}, "Line"),
}

func TestParseEveryKey(t *testing.T) {
	psk, err := key.ParsePreshared(pskText)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		File: "wg0.conf",
		Interface: Interface{
			PrivateKey: mustPrivate(t, privateText), ListenPort: ptr(uint16(51820)), FwMark: 0xcafe,
			Addresses: prefixes("10.0.0.1/24", "2001:db8::1/64", "10.1.0.1/32", "192.168.7.1/24"),
			DNS:       []netip.Addr{netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("2001:db8::53")}, SearchDomains: []string{"example.com", "corp.example"},
			MTU: 1380, Table: "1234", PreUp: []string{"echo pre %i"}, PostUp: []string{"echo post; ip rule add", "echo again"},
			PreDown: []string{"echo down"}, PostDown: []string{"echo gone"}, SaveConfig: true,
			Signaling: []Signaling{
				{Backend: "libp2p", Query: url.Values{"bootstrap": {"/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWX"}, "mdns": {"false"}}},
				{Backend: "kubernetes", Query: url.Values{"namespace": {"vpn"}}},
			},
			ICEServers: []proto.ICEServer{
				{Scheme: proto.STUN, Host: "192.0.2.1", Port: 3478, Transport: proto.TransportUDP},
				{Scheme: proto.TURN, Host: "2001:db8::2", Port: 3479, Transport: proto.TransportTCP, Username: "user", Password: "p@ss"},
			},
			CandidateTypes: []proto.CandidateType{proto.Host, proto.Relay}, NetworkTypes: []proto.NetworkType{proto.UDP4, proto.UDP6},
			Tun: TunNetstack, SOCKS5: Proxy{Listen: "127.0.0.1:1080"}, HTTPProxy: Proxy{Listen: "[::1]:8080", User: "alice", Password: "s3:cr@t"}, Lazy: true,
			Forwards: []Forward{
				{Network: "tcp", Listen: netip.MustParseAddrPort("127.0.0.1:8080"), Target: "10.0.0.2:80"},
				{Network: "udp", Inbound: true, Listen: netip.AddrPortFrom(netip.Addr{}, 53), Target: "dns.example:53"},
			},
		},
		Peers: []Peer{
			{
				PublicKey: mustPublic(t, peerText1), PresharedKey: &psk, AllowedIPs: prefixes("10.0.0.2/32", "10.0.9.0/24", "2001:db8::/32"),
				Endpoint: "vpn.example.com:51820", PersistentKeepalive: ptr(uint16(25)), Name: "alice", ICE: ICEOff, Lazy: ptr(false),
			},
			{
				PublicKey: mustPublic(t, peerText2), AllowedIPs: prefixes("0.0.0.0/0", "::/0"), Endpoint: "[2001:db8::7]:51820",
				PersistentKeepalive: ptr(uint16(0)),
			},
		},
	}
	got, err := Parse("wg0.conf", strings.NewReader(fullFile))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, byValue); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if again := reparse(t, got); !cmp.Equal(got, again, byValue) {
		t.Errorf("printed and parsed again (-want +got)\n%s", cmp.Diff(got, again, byValue))
	}
}

func reparse(t testing.TB, c *Config) *Config {
	again, err := Parse(c.File, strings.NewReader(c.String()))
	if err != nil {
		t.Fatalf("what String prints is refused: %v\n%s", err, c)
	}
	return again
}

func TestDefaults(t *testing.T) {
	c, err := Parse("", strings.NewReader("[Interface]\nPrivateKey = "+privateText))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(DefaultSignaling(), c.Interface.Signaling, byValue); diff != "" {
		t.Errorf("signaling (-want +got)\n%s", diff)
	}
	i := c.Interface
	if i.ListenPort != nil || i.Table != TableAuto || i.Tun != TunAuto || i.SOCKS5 != (Proxy{}) || i.CandidateTypes != nil || len(c.Peers) != 0 {
		t.Errorf("got %+v", i)
	}
}

// TestKeyFromElsewhere is the way of wg-quick(8) to keep keys encrypted.
func TestKeyFromElsewhere(t *testing.T) {
	c, err := Parse("", strings.NewReader("[Interface]\nPostUp = wg set %i private-key <(pass WireGuard/private-keys/%i)\n"))
	if err != nil || !c.Interface.PrivateKey.IsZero() {
		t.Errorf("got %v, %v", c, err)
	}
}

const head = "[Interface]\nPrivateKey = " + privateText + "\n" // lines 1 and 2

func TestErrors(t *testing.T) {
	peer := "[Peer]\nPublicKey = " + peerText1 + "\n"
	for _, c := range []struct {
		name, text string
		line       int
		want       []string
	}{
		{"empty file", "", 0, []string{"no [Interface] section"}},
		{"no private key", "[Interface]\nMTU = 1400\n", 1, []string{"PrivateKey", "genkey"}},
		{"bad private key", "[Interface]\nPrivateKey = topsecret\n", 2, []string{"PrivateKey = (hidden)", "44 characters"}},
		{"before a section", "MTU = 1400\n" + head, 1, []string{"before the first section"}},
		{"unknown section", head + "[Pear]\nfoo = bar\n", 3, []string{"[Pear]", "want [Interface] or [Peer]"}},
		{"no value", head + "ListenPort =\n", 3, []string{"the value is missing"}},
		{"no equals sign", head + "ListenPort 5\n", 3, []string{"want Key = Value"}},
		{"near miss", head + "ListenPrt = 5\n", 3, []string{`"ListenPrt"`, "did you mean ListenPort"}},
		{"swapped letters", head + peer + "AlowedIPs = 10.0.0.2\n", 5, []string{"did you mean AllowedIPs"}},
		{"unknown key", head + "Frobnicate = 5\n", 3, []string{"unknown key", "want one of PrivateKey, ListenPort"}},
		{"wrong section", head + "AllowedIPs = 10.0.0.0/8\n", 3, []string{"AllowedIPs belongs under [Peer]"}},
		{"wice key without the comment", head + "Signaling = libp2p\n", 3, []string{`write "#!wice Signaling = ..."`}},
		{"wg key with it", head + "#!wice Address = 10.0.0.1\n", 3, []string{`without "#!wice"`}},
		{"wice key in the wrong section", head + "#!wice Name = alice\n", 3, []string{"#!wice Name belongs under [Peer]"}},
		{"unknown wice key", head + "#!wice Signalling = libp2p\n", 3, []string{"did you mean #!wice Signaling"}},
		{"glued", head + "#!wicee Lazy = true\n", 3, []string{`want a space after "#!wice"`}},
		{"wice behind something", head + "MTU = 1400 #!wice Lazy = true\n", 3, []string{"line of its own"}},
		{"wice key twice", head + "#!wice Lazy = true\n#!wice Lazy = true\n", 4, []string{"Lazy is on line 3 already"}},
		{"bad bool", head + "#!wice Lazy = yes\n", 3, []string{`"yes"`, "true or false"}},
		{"bad tun", head + "#!wice Tun = tap\n", 3, []string{"auto, kernel or netstack"}},
		{"bad candidate type", head + "#!wice CandidateTypes = host,stun\n", 3, []string{`"stun"`}},
		{"bad network type", head + "#!wice NetworkTypes = udp4,,tcp4\n", 3, []string{"empty entry"}},
		{"bad proxy", head + "#!wice SOCKS5 = :1080\n", 3, []string{"host is missing"}},
		{"proxy on no port", head + "#!wice HTTPProxy = 127.0.0.1:0\n", 3, []string{"not on 0"}},
		{"proxy of a host", head + "#!wice SOCKS5 = proxy.example:1080\n", 3, []string{"not an address to listen on"}},
		{"proxy without a password", head + "#!wice SOCKS5 = hunter2@127.0.0.1:1080\n", 3, []string{"(hidden)@127.0.0.1:1080", "has no password"}},
		{"proxy with an empty user", head + "#!wice SOCKS5 = :hunter2@127.0.0.1:1080\n", 3, []string{"(hidden)@127.0.0.1:1080", "user is empty"}},
		{"proxy with an empty password", head + "#!wice SOCKS5 = bob:@127.0.0.1:1080\n", 3, []string{"password is empty"}},
		{"proxy with a space", head + "#!wice SOCKS5 = bob:hunter2 x@127.0.0.1:1080\n", 3, []string{"a space"}},
		{"proxy with a long password", head + "#!wice SOCKS5 = bob:" + strings.Repeat("hunter2", 37) + "@127.0.0.1:1080\n", 3, []string{"259 bytes"}},
		{"proxy with a bad address", head + "#!wice SOCKS5 = bob:hunter2@127.0.0.1\n", 3, []string{"(hidden)@127.0.0.1", "port is missing"}},
		{"proxy twice", head + "#!wice SOCKS5 = bob:hunter2@127.0.0.1:1\n#!wice SOCKS5 = bob:hunter2@127.0.0.1:1\n", 4, []string{"line 3 already"}},
		{"forward without arrow", head + "#!wice Forward = tcp 127.0.0.1:80 10.0.0.2:80\n", 3, []string{"is not a forward"}},
		{"forward of what", head + "#!wice Forward = icmp 127.0.0.1:80 -> 10.0.0.2:80\n", 3, []string{"neither tcp nor udp"}},
		{"forward twice", head + "#!wice Forward = tcp 127.0.0.1:80 -> 10.0.0.2:80\n#!wice Forward = tcp localhost:80 -> 10.0.0.3:80\n", 4, []string{"line 3", "listens on tcp 127.0.0.1:80 already"}},
		{"forward to the tunnel", head + "#!wice Forward = tcp 127.0.0.1:80 -> tunnel:80\n", 3, []string{"before the arrow alone"}},
		{"bad signaling", head + "#!wice Signaling = libp2p:mdns=false\n", 3, []string{"question mark"}},
		{"signaling without colon", head + "#!wice Signaling = libp2p?mdns=false\n", 3, []string{"write libp2p:?mdns=false"}},
		{"bad ICE server", head + "#!wice ICEServer = turn:bob:hunter2@192.0.2.1:0\n", 3, []string{"ICEServer", "port 0"}},
		{"bad port", head + "ListenPort = 65536\n", 3, []string{`"65536"`, "0 to 65535"}},
		{"negative port", head + "ListenPort = -1\n", 3, []string{"0 to 65535"}},
		{"bad mark", head + "FwMark = 0x100000000\n", 3, []string{"0 to 0xffffffff"}},
		{"bad MTU", head + "MTU = 9\n", 3, []string{"68 to 65535"}},
		{"bad table", head + "Table = green\n", 3, []string{"auto, off, main or a number"}},
		{"bad address", head + "Address = 10.0.0.1/33\n", 3, []string{"prefix length from 0 to 32"}},
		{"no address", head + "Address = wg.example\n", 3, []string{"not an IP address"}},
		{"bad DNS", head + "DNS = 10.0.0\n", 3, []string{"DNS server"}},
		{"bad save", head + "SaveConfig = 1\n", 3, []string{"true or false"}},
		{"no public key", head + "[Peer]\nAllowedIPs = 10.0.0.2\n", 3, []string{"[Peer]", "no PublicKey"}},
		{"key on the twist", head + "[Peer]\nPublicKey = AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", 4, []string{"PublicKey = AgAA", key.ErrTwist.Error()}},
		{"bad preshared key", head + peer + "PresharedKey = abc\n", 5, []string{"(hidden)", "genpsk"}},
		{"duplicate peer", head + peer + peer, 6, []string{"xTIBA5rb", "line 4 already"}},
		{"duplicate name", head + peer + "#!wice Name = a\n[Peer]\nPublicKey = " + peerText2 + "\n#!wice Name = a\n", 8, []string{"line 5", `"a" already`}},
		{"bad allowed IP", head + peer + "AllowedIPs = 10.0.0.2/33\n", 5, []string{"AllowedIPs = 10.0.0.2/33", "prefix length"}},
		{"empty allowed IP", head + peer + "AllowedIPs = 10.0.0.2,,10.0.0.3\n", 5, []string{"not an IP address"}},
		{"endpoint without port", head + peer + "Endpoint = 192.0.2.1\n", 5, []string{"port is missing", "51820"}},
		{"IPv6 endpoint without port", head + peer + "Endpoint = [2001:db8::1]\n", 5, []string{"port is missing"}},
		{"bare IPv6 endpoint", head + peer + "Endpoint = 2001:db8::1:\n", 5, []string{"port is missing"}},
		{"endpoint port", head + peer + "Endpoint = 192.0.2.1:0\n", 5, []string{"port 0"}},
		{"endpoint is a URL", head + peer + "Endpoint = https://vpn.example:443\n", 5, []string{"HOST:PORT"}},
		{"bad keepalive", head + peer + "PersistentKeepalive = 65536\n", 5, []string{"0 to 65535"}},
		{"bad ICE", head + peer + "#!wice ICE = on\n", 5, []string{"auto or off"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse("wg0.conf", strings.NewReader(c.text))
			if err == nil {
				t.Fatalf("got %v, want an error", got)
			}
			list := split(err)
			if len(list) != 1 {
				t.Fatalf("got %d errors, want 1: %v", len(list), err)
			}
			var parse *ParseError
			if !errors.As(list[0], &parse) || parse.Line != c.line || parse.File != "wg0.conf" {
				t.Errorf("got %v, want line %d", err, c.line)
			}
			for _, want := range append(c.want, "wg0.conf:") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
			for _, secret := range []string{"topsecret", "hunter2", privateText} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error gives %q away: %v", secret, err)
				}
			}
		})
	}
}

func split(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

func TestErrorsHideSecrets(t *testing.T) {
	for _, line := range []string{
		"PrivatKey = " + privateText, "#!wice PrivateKey = " + privateText, privateText, "Frobnicate = " + pskText,
		"#!wice ICEServers = turn:bob:hunter2hunter2@192.0.2.1", "#!wice ICEServer = turn:bob:hunter2hunter2@", "#!wice ICEServer = turn:bob:hunter2hunter2",
		"#!wice SOCKS5 = bob:hunter2hunter2", "#!wice HTTPProxy = bob:hunter2hunter2:127.0.0.1:8080", "#!wice SOCKS = bob:hunter2hunter2@127.0.0.1:1080",
		"PresharedKeys = " + strings.TrimSuffix(pskText, "="), "[Interface] PrivateKey = " + privateText,
	} {
		_, err := Parse("", strings.NewReader(head+line+"\n"))
		if err == nil {
			t.Errorf("%s: want an error", line)
			continue
		}
		for _, secret := range []string{privateText[:20], pskText[:20], "hunter2hunter2"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error gives %q away: %v", secret, err)
			}
		}
	}
}

func TestErrorsAllAtOnceAndBounded(t *testing.T) {
	_, err := Parse("", strings.NewReader(head+"MTU = x\nListenPort = y\n[Peer]\nPublicKey = z\n"))
	if got := len(split(err)); got != 3 {
		t.Errorf("got %d errors, want 3: %v", got, err)
	}
	_, err = Parse("", strings.NewReader(head+strings.Repeat("MTU = x\n", 1000)))
	if got := len(split(err)); got != maxErrors+1 || !strings.Contains(err.Error(), "and 980 more errors") {
		t.Errorf("got %d errors: %v", got, err)
	}
	if _, err := Parse("", strings.NewReader(strings.Repeat("#", MaxSize+1))); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want %v", err, ErrTooLarge)
	}
}

func TestWarnings(t *testing.T) {
	self := mustPrivate(t, privateText).Public().String()
	for _, c := range []struct{ name, text, want string }{
		{"single-valued key twice", head + "MTU = 1400\nMTU = 1300\n", "wg0.conf:4: MTU is on line 3 already"},
		{"two interface sections", head + "[Interface]\nMTU = 1400\n", "wg0.conf:3: a second [Interface]"},
		{"host bits", head + "[Peer]\nPublicKey = " + peerText1 + "\nAllowedIPs = 10.0.0.2/24\n", "taken as 10.0.0.0/24"},
		{"allowed IP of two peers", head + "[Peer]\nPublicKey = " + peerText1 + "\nAllowedIPs = 10.0.0.2\n[Peer]\nPublicKey = " + peerText2 + "\nAllowedIPs = 10.0.0.2/32\n",
			"wg0.conf:6: the allowed IP 10.0.0.2/32 belongs to the peer xTIBA5rb (line 3) too"},
		{"itself", head + "[Peer]\nPublicKey = " + self + "\n", "wg0.conf:3: the peer"},
		{"space in #! wice", head + "#! wice Lazy = true\n", `begins with "#!wice "`},
		{"space in # !wice", head + "# !wice Lazy = true\n", `begins with "#!wice "`},
		{"misspelled", head + "#!wcie Lazy = true\n", `begins with "#!wice "`},
		{"small MTU", head + "MTU = 1000\n", "no IPv6"},
	} {
		_, warnings, err := parse("wg0.conf", strings.NewReader(c.text), false)
		if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0].String(), c.want) {
			t.Errorf("%s: got %v, %v; want %q", c.name, warnings, err, c.want)
		}
	}
	c, warnings, err := parse("", strings.NewReader(head+"##!wice Lazy = true\n# #!wice Lazy = true\n# wice-go is nice = so\n#!/bin/sh\n"), false)
	if err != nil || len(warnings) != 0 || c.Interface.Lazy {
		t.Errorf("plain comments: got %v, %v, %v", c, warnings, err)
	}
}

func TestLastOneCounts(t *testing.T) {
	c, err := Parse("", strings.NewReader(head+"MTU = 1400\nMTU = 1300\n[Peer]\nPublicKey = "+peerText1+"\nAllowedIPs = +10.0.0.1, 10.0.0.2\nAllowedIPs = -10.0.0.1\n"))
	if err != nil || c.Interface.MTU != 1300 {
		t.Fatalf("got %v, %v", c, err)
	}
	if diff := cmp.Diff(prefixes("10.0.0.2/32"), c.Peers[0].AllowedIPs, byValue); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestUAPI(t *testing.T) {
	c, err := Parse("", strings.NewReader(fullFile))
	if err != nil {
		t.Fatal(err)
	}
	psk, _ := key.ParsePreshared(pskText)
	want := "private_key=" + mustPrivate(t, privateText).Hex() + "\nlisten_port=51820\nfwmark=51966\nreplace_peers=true\n" +
		"public_key=" + mustPublic(t, peerText1).Hex() + "\npreshared_key=" + psk.Hex() + "\npersistent_keepalive_interval=25\nreplace_allowed_ips=true\n" +
		"allowed_ip=10.0.0.2/32\nallowed_ip=10.0.9.0/24\nallowed_ip=2001:db8::/32\n" +
		"public_key=" + mustPublic(t, peerText2).Hex() + "\nendpoint=[2001:db8::7]:51820\npersistent_keepalive_interval=0\nreplace_allowed_ips=true\n" +
		"allowed_ip=0.0.0.0/0\nallowed_ip=::/0\n"
	if diff := cmp.Diff(want, c.UAPI()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestCheckBackends(t *testing.T) {
	c, err := Parse("wg0.conf", strings.NewReader(fullFile))
	if err != nil {
		t.Fatal(err)
	}
	err = c.CheckBackends([]string{"libp2p", "inproc"})
	if err == nil || !strings.Contains(err.Error(), `wg0.conf:20: `) || !strings.Contains(err.Error(), "want one of libp2p, inproc") {
		t.Errorf("got %v", err)
	}
	if err := c.CheckBackends([]string{"libp2p", "kubernetes"}); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "wg0.conf")
	if err := os.WriteFile(path, []byte(head), 0o600); err != nil {
		t.Fatal(err)
	}
	c, warnings, err := Load(path)
	if err != nil || len(warnings) != 0 || c.File != path {
		t.Errorf("got %v, %v, %v", c, warnings, err)
	}
	if _, _, err := Load(filepath.Join(dir, "wg1.conf")); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "wg1.conf") {
		t.Errorf("missing file: got %v", err)
	}
	if _, _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("directory: got %v", err)
	}
}

func bigFile(peers int) string {
	var b strings.Builder
	b.WriteString(head)
	for n := range peers {
		fmt.Fprintf(&b, "[Peer]\nPublicKey = %v\nAllowedIPs = 10.%d.%d.%d/32\n", key.NewPrivate().Public(), n>>16, n>>8&255, n&255)
	}
	return b.String()
}

func TestManyPeers(t *testing.T) {
	const n = 300
	c, err := Parse("", strings.NewReader(bigFile(n)))
	if err != nil || len(c.Peers) != n {
		t.Fatal(err)
	}
	if got, want := c.Peers[n-1].AllowedIPs, prefixes("10.0.1.43/32"); !cmp.Equal(got, want, byValue) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// BenchmarkParse10000Peers is nearly all the validation of the keys.
func BenchmarkParse10000Peers(b *testing.B) {
	file := bigFile(10000)
	for b.Loop() {
		if _, err := Parse("", strings.NewReader(file)); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(fullFile)
	f.Add(head)
	f.Add("[Interface]\nPrivateKey")
	f.Add("[Peer]\n#!wice =\n#!wice Forward = ->\n#!wice ICEServer = turn:@\n")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := Parse("f", strings.NewReader(s))
		if err != nil {
			if c != nil || len(err.Error()) > 64<<10 {
				t.Fatalf("got %v and an error of %d bytes", c, len(err.Error()))
			}
			return
		}
		if again := reparse(t, c); !cmp.Equal(c, again, byValue) {
			t.Errorf("printed and parsed again (-want +got)\n%s", cmp.Diff(c, again, byValue))
		}
		_ = c.UAPI()
	})
}

// loadAdditions writes a file, and reads what it adds to WireGuard.
func loadAdditions(t *testing.T, text string) (*Config, []Warning, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "wg0.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadAdditions(file)
}

// What other programs set up is left out of the additions, be it right or wrong for us: keys, addresses, endpoints.
func TestLoadAdditions(t *testing.T) {
	got, warnings, err := loadAdditions(t, `Endpoint = nowhere
[Interface]
PrivateKey = secret
Address = 10.0.0.1/24
Table = vpn
ListenPort = 51820
Frobnicate = 5
nonsense
#!wice Signaling = libp2p:?mdns=false
#!wice Lazy = true
[Peer]
PublicKey=`+peerText1+` # bob
AllowedIPs = all
Endpoint = 192.0.2.1:51820
PersistentKeepalive = 25
#!wice Name = bob
#!wice ICE = off
[Peer]
#!wice Name = nobody
[Peer]
publickey = `+peerText1+`
#!wice Name = again
[Peer]
PublicKey = short
#!wice Name = short
[Pear]
#!wice Name = pear
`)
	if err != nil {
		t.Fatal(err)
	}
	bob, err := key.ParsePublic(peerText1)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{File: got.File, Interface: Interface{Signaling: []Signaling{{Backend: "libp2p", Query: url.Values{"mdns": {"false"}}, Line: 9}}, Lazy: true},
		Peers: []Peer{{PublicKey: bob, Name: "bob", ICE: ICEOff}}}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b key.Private) bool { return a == b })); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if len(warnings) != 2 || !strings.Contains(warnings[0].String(), "on line 12 already") || !strings.Contains(warnings[1].String(), ":24: ") {
		t.Errorf("got the warnings %v, want two of keys that are none", warnings)
	}
	for text, want := range map[string]string{
		"[Interface]\n#!wice Lasy = true\n":                                      ":2: ",
		"[Interface]\nMTU = 1280\n[Peer]\nPublicKey = x\n#!wice ICE = perhaps\n": ":5: ",
		"#!wice Lazy = true\n":                                                   ":1: ",
		"[Interface]\nMTU = 1280 #!wice Lazy = true\n":                           ":2: ",
	} {
		if got, _, err := loadAdditions(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v, want an error at %s", text, got, err, want)
		}
	}
	if got, _, err := loadAdditions(t, ""); err != nil || !cmp.Equal(got.Interface.Signaling, DefaultSignaling()) {
		t.Errorf("nothing: got %v, %v", got, err)
	}
}
