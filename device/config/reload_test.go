package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/wice-go/wice-go/proto/key"
)

// reloadOf plans a reload of a device that has just come up with the first text, after more lines of its state.
func reloadOf(t *testing.T, running, file, more string) *Reload {
	t.Helper()
	before, err := Parse("running", strings.NewReader(running))
	if err != nil {
		t.Fatal(err)
	}
	after, err := Parse("file", strings.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	var state strings.Builder
	if !before.Interface.PrivateKey.IsZero() {
		fmt.Fprintf(&state, "private_key=%s\n", before.Interface.PrivateKey.Hex())
	}
	state.WriteString("listen_port=40000\n")
	for n := range before.Peers {
		p := before.Peers[n]
		p.writeUAPI(&state)
	}
	kept := strings.ReplaceAll(state.String(), "replace_allowed_ips=true\n", "") // a state does not say that
	want := before.String()
	r, err := PlanReload(before, kept+more, after)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, before.String()); d != "" {
		t.Errorf("the running configuration was changed: %s", d)
	}
	return r
}

func TestPlanReload(t *testing.T) {
	me, bob, carol := key.NewPrivate(), key.NewPrivate().Public(), key.NewPrivate().Public()
	commanded := "[Interface]\nPostUp = wg set %i private-key /etc/wireguard/key\n"
	psk := "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="
	pskHex := "1690b2870b3d731c16a15e3110bb5f26f8c937ecd05513c84a59515a07a8a551"
	head := fmt.Sprintf("[Interface]\nPrivateKey = %s\n", me.Base64())
	peerB := fmt.Sprintf("[Peer]\nPublicKey = %s\n#!wice Name = bob\nAllowedIPs = 10.0.0.2/32, 10.2.0.0/16\nEndpoint = 192.0.2.1:7\n", bob)
	peerC := fmt.Sprintf("[Peer]\nPublicKey = %s\nAllowedIPs = 10.0.0.3/32\n", carol)
	update := func(lines string) string { return fmt.Sprintf("public_key=%s\nupdate_only=true\n%s", bob.Hex(), lines) }
	for _, test := range []struct {
		name          string
		running, file string
		state         string // more of it
		changes       string
		pending       string
		set           string
	}{
		{name: "nothing", running: head + peerB + peerC, file: head + "# a comment\n" + peerC + peerB},
		{name: "what the device has chosen", running: head + peerB, file: head + "ListenPort = 0\n" + peerB, state: "endpoint=198.51.100.1:9\n"},
		{name: "peers", running: head + peerB, file: head + peerC, changes: "peer bob removed; peer " + carol.String() + " added",
			set: fmt.Sprintf("public_key=%s\nremove=true\npublic_key=%s\nreplace_allowed_ips=true\nallowed_ip=10.0.0.3/32\n", bob.Hex(), carol.Hex())},
		{name: "set by wg", running: head + peerB, file: head + peerB, state: "persistent_keepalive_interval=9\npreshared_key=" + pskHex + "\nallowed_ip=10.9.0.0/16\n",
			changes: "peer bob: PresharedKey, AllowedIPs, PersistentKeepalive",
			set:     update("preshared_key=" + strings.Repeat("0", 64) + "\nallowed_ip=-10.9.0.0/16\npersistent_keepalive_interval=0\n")},
		{name: "added by wg", running: head + peerB, file: head + peerB, state: "public_key=" + carol.Hex() + "\nendpoint=192.0.2.3:3\n",
			changes: "peer " + carol.String() + " removed", set: "public_key=" + carol.Hex() + "\nremove=true\n"},
		{name: "added by wg and then in the file", running: head + peerB, file: head + peerB + peerC,
			state: "public_key=" + carol.Hex() + "\nallowed_ip=10.0.0.3/32\nendpoint=192.0.2.3:3\n"},
		{name: "values", running: head + peerB, file: head + strings.Replace(peerB, "10.2.0.0/16", "10.3.0.0/16", 1) + "PresharedKey = " + psk + "\n",
			changes: "peer bob: PresharedKey, AllowedIPs", set: update("preshared_key=" + pskHex + "\nallowed_ip=-10.2.0.0/16\nallowed_ip=10.3.0.0/16\n")},
		{name: "endpoint", running: head + peerB, file: head + strings.Replace(peerB, "192.0.2.1:7", "192.0.2.9:7", 1),
			changes: "peer bob: Endpoint", set: update("endpoint=192.0.2.9:7\n")},
		{name: "endpoint with a name", running: head + peerB, file: head + strings.Replace(peerB, "192.0.2.1:7", "bob.example.org:7", 1), changes: "peer bob: Endpoint"},
		{name: "no endpoint", running: head + peerB, file: head + strings.Replace(peerB, "Endpoint", "#", 1), changes: "peer bob: Endpoint"},
		{name: "ours", running: head + peerB, file: head + strings.Replace(peerB, "bob", "robert", 1) + "#!wice ICE = off\n#!wice Lazy = false\n",
			changes: "peer robert: Name, ICE, Lazy"},
		{name: "a prefix that moves", running: head + peerB + peerC, file: head + peerB + strings.Replace(peerC, "10.0.0.3/32", "10.0.0.3/32, 10.2.0.0/16", 1),
			changes: "peer bob: AllowedIPs; peer " + carol.String() + ": AllowedIPs",
			set:     update("allowed_ip=-10.2.0.0/16\n") + fmt.Sprintf("public_key=%s\nupdate_only=true\nallowed_ip=10.2.0.0/16\n", carol.Hex())},
		{name: "interface", running: head + peerB, file: head + "ListenPort = 7\nFwMark = 9\nSaveConfig = true\n#!wice Lazy = true\n#!wice ICEServer = stun:192.0.2.1:3478\n" + peerB,
			changes: "[Interface]: ListenPort, FwMark, SaveConfig, ICEServer, Lazy"},
		{name: "a port no more", running: head + "ListenPort = 40000\n", file: head, changes: "[Interface]: ListenPort"},
		{name: "private key", running: head, file: "[Interface]\nPrivateKey = " + psk + "\n", changes: "[Interface]: PrivateKey", set: "private_key=" + pskHex + "\n"},
		{name: "a private key that a command has set", running: commanded, file: commanded, state: "private_key=" + pskHex + "\n"},
		{name: "pending", running: head, file: head + "Address = 10.0.0.1\nMTU = 1300\nDNS = 10.0.0.1\nTable = 7\nPostUp = true\n#!wice Signaling = libp2p:?mdns=false\n#!wice Tun = kernel\n",
			pending: "Address DNS MTU Table PostUp Signaling Tun"},
		{name: "pending and gone", running: head + "Address = 10.0.0.1\n", file: head, pending: "Address"},
		{name: "the mark of a full tunnel", running: head + strings.Replace(peerB, "10.2.0.0/16", "0.0.0.0/0", 1),
			file: head + "FwMark = 9\n" + strings.Replace(peerB, "10.2.0.0/16", "0.0.0.0/0", 1), pending: "FwMark"},
		{name: "a signaling line elsewhere", running: head + "#!wice Signaling = libp2p\n", file: head + "\n\n#!wice Signaling = libp2p\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := reloadOf(t, test.running, test.file, test.state)
			var changes []string
			for _, c := range r.Changes {
				changes = append(changes, c.String())
			}
			if got := strings.Join(changes, "; "); got != test.changes {
				t.Errorf("got changes %q, want %q", got, test.changes)
			}
			if got := strings.Join(r.Pending, " "); got != test.pending {
				t.Errorf("got pending %q, want %q", got, test.pending)
			}
			if d := cmp.Diff(test.set, r.Set); d != "" {
				t.Errorf("set operation (-want +got):\n%s", d)
			}
		})
	}
}

func TestPlanReloadBadState(t *testing.T) {
	c := new(Config)
	if r, err := PlanReload(c, "listen_port=nonsense\n", c); err == nil || r != nil {
		t.Errorf("got %v, %v, want an error", r, err)
	}
}

// Peers come and go without the file's additions, so that they are no change of themselves.
func TestPlanAdditions(t *testing.T) {
	bob, carol := key.NewPrivate().Public().String(), key.NewPrivate().Public().String()
	section := func(pk, lines string) string { return "[Peer]\nPublicKey = " + pk + "\n" + lines }
	running := "[Interface]\n#!wice CandidateTypes = host\n" + section(bob, "#!wice Name = bob\n") + section(carol, "AllowedIPs = 10.0.0.3/32\n")
	for _, test := range []struct{ name, file, changes, pending string }{
		{"same", running + "Endpoint = 192.0.2.1:7\n", "", ""},
		{"peer without additions gone", strings.ReplaceAll(running, section(carol, "AllowedIPs = 10.0.0.3/32\n"), ""), "", ""},
		{"peer with additions gone", strings.ReplaceAll(running, section(bob, "#!wice Name = bob\n"), ""), "peer " + bob + ": Name", ""},
		{"more of a peer", running + "#!wice ICE = off\n#!wice Lazy = false\n", "peer " + carol + ": ICE, Lazy", ""},
		{"interface", strings.Replace(running, "CandidateTypes = host", "Lazy = true", 1), "[Interface]: Lazy", "CandidateTypes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before, _, err := loadAdditions(t, running)
			if err != nil {
				t.Fatal(err)
			}
			after, _, err := loadAdditions(t, test.file)
			if err != nil {
				t.Fatal(err)
			}
			r := PlanAdditions(before, after)
			var changes []string
			for _, c := range r.Changes {
				changes = append(changes, c.String())
			}
			if got, pending := strings.Join(changes, "; "), strings.Join(r.Pending, " "); got != test.changes || pending != test.pending || r.Set != "" {
				t.Errorf("got %q, pending %q, set %q, want %q, pending %q", got, pending, r.Set, test.changes, test.pending)
			}
		})
	}
}
