package e2e

import (
	"encoding/json"
	"net"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/test/natlab"
)

// wgctrlVariable has this program be a client of wgctrl: its value is a configuration to apply before it prints the interface, or null. The
// library finds the sockets in /var/run/wireguard alone, which is another one on each host.
const wgctrlVariable = "WICE_TEST_WGCTRL"

// beWgctrl does what the variable says.
func beWgctrl(operation string) error {
	c, err := wgctrl.New()
	if err != nil {
		return err
	}
	defer c.Close()
	var config *wgtypes.Config
	if err := json.Unmarshal([]byte(operation), &config); err != nil {
		return err
	}
	if config != nil {
		if err := c.ConfigureDevice(iface, *config); err != nil {
			return err
		}
	}
	d, err := c.Device(iface)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(d)
}

// wgctrl applies a configuration, if there is one, and returns the interface.
func (n *node) wgctrl(config *wgtypes.Config) wgtypes.Device {
	n.w.t.Helper()
	operation, err := json.Marshal(config)
	if err != nil {
		n.w.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		n.w.t.Fatal(err)
	}
	r := n.ok("env", wgctrlVariable+"="+string(operation), self)
	var d wgtypes.Device
	if err := json.Unmarshal([]byte(r.stdout), &d); err != nil {
		n.w.t.Fatalf("%v: %v", r, err)
	}
	return d
}

func prefixes(list ...string) (nets []net.IPNet) {
	for _, text := range list {
		_, n, err := net.ParseCIDR(text)
		if err != nil {
			panic(err)
		}
		nets = append(nets, *n)
	}
	return nets
}

// A program that uses wgctrl, the library of those who control WireGuard, sets a drop-in interface up, reads all of it back, and takes it apart.
func TestWgctrl(t *testing.T) {
	w := newWorld(t, natlab.Config{LANOnly: true, A: natlab.Site{Hosts: 2}})
	na, nb := w.node(w.lab.A[0]).quiet(), w.node(w.lab.A[1])
	join(na, nb)
	psk := key.NewPreshared()
	nb.peers[0].lines = []string{"PresharedKey = " + psk.Base64()}
	na.dropIn()
	if d := na.wgctrl(nil); d.Type != wgtypes.Userspace || d.PrivateKey != (wgtypes.Key{}) || len(d.Peers) > 0 {
		t.Errorf("a bare interface: got %+v", d)
	}

	pointer := func(k wgtypes.Key) *wgtypes.Key { return &k }
	port, mark, keepalive := 40001, 0x1234, 25*time.Second
	bob, eve := wgtypes.Key(nb.key.Public()), wgtypes.Key(key.NewPrivate().Public())
	all := &wgtypes.Config{
		PrivateKey: pointer(wgtypes.Key(na.key)), ListenPort: &port, FirewallMark: &mark, ReplacePeers: true,
		Peers: []wgtypes.PeerConfig{
			{PublicKey: bob, PresharedKey: pointer(wgtypes.Key(psk)), PersistentKeepaliveInterval: &keepalive, AllowedIPs: prefixes("10.9.0.0/24", nb.addr.String()+"/32")},
			{PublicKey: eve, Endpoint: &net.UDPAddr{IP: net.ParseIP("192.0.2.1"), Port: 9}, AllowedIPs: prefixes("fd00:9::/64")},
		},
	}
	d := na.wgctrl(all)
	if d.PrivateKey != wgtypes.Key(na.key) || d.PublicKey != wgtypes.Key(na.key.Public()) || d.ListenPort != port || d.FirewallMark != mark || d.Name != iface {
		t.Errorf("got %+v", d)
	}
	peer := func(d wgtypes.Device, k wgtypes.Key) wgtypes.Peer {
		t.Helper()
		for _, p := range d.Peers {
			if p.PublicKey == k {
				return p
			}
		}
		t.Fatalf("there is no peer %v in %+v", k, d)
		return wgtypes.Peer{}
	}
	networks := func(p wgtypes.Peer) map[string]bool {
		set := make(map[string]bool)
		for _, n := range p.AllowedIPs {
			set[n.String()] = true
		}
		return set
	}
	if p := peer(d, bob); p.Endpoint != nil || p.PresharedKey != wgtypes.Key(psk) || p.PersistentKeepaliveInterval != keepalive || !p.LastHandshakeTime.IsZero() ||
		p.ProtocolVersion != 1 || !cmp.Equal(networks(p), map[string]bool{"10.9.0.0/24": true, nb.addr.String() + "/32": true}) {
		t.Errorf("got %+v of the peer without endpoint", p)
	}
	if p := peer(d, eve); p.Endpoint == nil || p.Endpoint.String() != "192.0.2.1:9" || p.PersistentKeepaliveInterval != 0 || !cmp.Equal(networks(p), map[string]bool{"fd00:9::/64": true}) {
		t.Errorf("got %+v of the peer with an endpoint", p)
	}

	na.wgctrl(&wgtypes.Config{FirewallMark: new(int)})
	na.ok("ip", "addr", "add", na.addr.String()+"/24", "dev", iface)
	na.ok("ip", "link", "set", iface, "up")
	nb.up()
	na.firstPing(nb.addr)
	na.connected(nb)
	d = na.wgctrl(nil)
	if p := peer(d, bob); d.FirewallMark != 0 || p.Endpoint == nil || p.Endpoint.IP.String() != nb.host.Addr4().String() || time.Since(p.LastHandshakeTime).Abs() > patience || p.ReceiveBytes == 0 || p.TransmitBytes == 0 {
		t.Errorf("got %+v of a peer that is connected", p)
	}

	changed := &wgtypes.Config{Peers: []wgtypes.PeerConfig{
		{PublicKey: bob, UpdateOnly: true, ReplaceAllowedIPs: true, AllowedIPs: prefixes(nb.addr.String() + "/32"), PersistentKeepaliveInterval: new(time.Duration)},
		{PublicKey: wgtypes.Key(key.NewPrivate().Public()), UpdateOnly: true, AllowedIPs: prefixes("10.0.0.0/8")},
		{PublicKey: eve, Remove: true},
	}}
	d = na.wgctrl(changed)
	if p := peer(d, bob); len(d.Peers) != 1 || p.PersistentKeepaliveInterval != 0 || p.Endpoint == nil || !cmp.Equal(networks(p), map[string]bool{nb.addr.String() + "/32": true}) {
		t.Errorf("got %+v", d)
	}
	na.firstPing(nb.addr)
	if d := na.wgctrl(&wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: bob, Remove: true}}}); len(d.Peers) != 0 || d.PrivateKey != wgtypes.Key(na.key) {
		t.Errorf("got %+v", d)
	}
	if s := na.status(); len(s.Peers) != 0 {
		t.Errorf("the peer is still there: %+v", s)
	}
}
