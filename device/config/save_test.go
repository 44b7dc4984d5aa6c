package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/wice-go/wice-go/proto/key"
)

const savedFile = `# my network
[Interface]
PrivateKey = ` + privateText + ` # keep this
Address = 10.0.0.1/24
#!wice Signaling = libp2p:?mdns=true
SaveConfig = true

# Alice, whose laptop moves
[Peer]
#!wice Name = alice
PublicKey = ` + peerText1 + `
AllowedIPs = 10.0.0.2/32 # her address
Endpoint = alice.example:51820
PersistentKeepalive = 25

# Bob
[Peer]
PublicKey = ` + peerText2 + `
AllowedIPs = 10.0.0.3
AllowedIPs = 10.0.0.4
# the end
`

func TestSaveWithoutChangeKeepsEveryByte(t *testing.T) {
	c, err := Parse("", strings.NewReader(savedFile))
	if err != nil {
		t.Fatal(err)
	}
	state := strings.Replace(c.UAPI(), "allowed_ip=10.0.0.3/32\nallowed_ip=10.0.0.4/32", "endpoint=192.0.2.1:9\nallowed_ip=10.0.0.4/32\nallowed_ip=10.0.0.3/32", 1)
	if err := c.Update(state + "errno=0\n\n"); err != nil {
		t.Fatal(err)
	}
	got, err := c.Save(savedFile)
	if diff := cmp.Diff(savedFile, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
}

func TestSaveChanges(t *testing.T) {
	c, err := Parse("", strings.NewReader(savedFile))
	if err != nil {
		t.Fatal(err)
	}
	added := mustPrivate(t, pskText).Public()
	psk, _ := key.ParsePreshared(pskText)
	state := "private_key=" + c.Interface.PrivateKey.Hex() + "\nlisten_port=4242\nfwmark=7\n" +
		"public_key=" + added.Hex() + "\npreshared_key=" + psk.Hex() + "\nendpoint=192.0.2.1:51820\npersistent_keepalive_interval=0\nallowed_ip=10.0.0.9/32\n" +
		"public_key=" + mustPublic(t, peerText1).Hex() + "\npreshared_key=" + strings.Repeat("0", 64) + "\nendpoint=192.0.2.7:4\n" +
		"persistent_keepalive_interval=0\nallowed_ip=10.0.0.2/32\nallowed_ip=10.7.0.0/16\nrx_bytes=5\n"
	if err := c.Update(state); err != nil {
		t.Fatal(err)
	}
	want := `# my network
[Interface]
PrivateKey = ` + privateText + ` # keep this
Address = 10.0.0.1/24
#!wice Signaling = libp2p:?mdns=true
SaveConfig = true
ListenPort = 4242
FwMark = 0x7

# Alice, whose laptop moves
[Peer]
#!wice Name = alice
PublicKey = ` + peerText1 + `
AllowedIPs = 10.0.0.2/32, 10.7.0.0/16
Endpoint = alice.example:51820

[Peer]
PublicKey = ` + added.String() + `
PresharedKey = ` + pskText + `
AllowedIPs = 10.0.0.9/32
Endpoint = 192.0.2.1:51820
`
	got, err := c.Save(savedFile)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	path := filepath.Join(t.TempDir(), "wg0.conf")
	if err := errors.Join(os.WriteFile(path, []byte(savedFile), 0o600), c.SaveFile(path)); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		t.Errorf("file: got %s, %v", b, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left over: %v, %v", entries, err)
	}
	if err := os.WriteFile(path, []byte("[Interface]\nbroken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.SaveFile(path); err == nil {
		t.Error("a file that can't be read was overwritten")
	}
}

func TestUpdateErrors(t *testing.T) {
	for _, state := range []string{"private_key=abc\n", "listen_port=x\n", "public_key=1\n", "public_key=" + strings.Repeat("09", 32) + "\nallowed_ip=x\n"} {
		if err := new(Config).Update(state); err == nil {
			t.Errorf("%q: want an error", state)
		}
	}
}

func FuzzSave(f *testing.F) {
	f.Add(savedFile, true)
	f.Add(fullFile, false)
	f.Fuzz(func(t *testing.T, text string, change bool) {
		c, err := Parse("", strings.NewReader(text))
		if err != nil {
			return
		}
		if change {
			c.Interface.FwMark++
			c.Peers = c.Peers[:len(c.Peers)/2]
		}
		got, err := c.Save(text)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("", strings.NewReader(got))
		if err != nil {
			t.Fatalf("what was saved is refused: %v\n%s", err, got)
		}
		if !cmp.Equal(c.Peers, again.Peers, byValue) || c.Interface.FwMark != again.Interface.FwMark {
			t.Errorf("(-want +got)\n%s", cmp.Diff(c, again, byValue))
		}
	})
}
