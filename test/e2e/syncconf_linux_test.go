package e2e

import (
	"testing"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/test/natlab"
)

// "wg syncconf" under load loses no packet of the peer that stays as it is, nor its session, whether or not the file has a port.
func TestSyncconfLosesNothing(t *testing.T) {
	needTool(t, "iperf3")
	for _, kind := range []string{dropIn, wiceUp} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t, natlab.Config{A: natlab.Site{NAT: natlab.PortRestricted}, B: natlab.Site{NAT: natlab.PortRestricted, Hosts: 2}})
			w.rendezvous()
			na, nb, nc := w.node(w.lab.A[0]).quiet(), w.node(w.lab.B[0]), w.node(w.lab.B[1])
			join(na, nb, nc)
			nb.up()
			nc.up()
			give := func(verb string) {
				t.Helper()
				na.writeConfig()
				na.ok("sh", "-c", wiceGo()+" strip "+na.file+" | wg "+verb+" "+iface+" /dev/stdin")
			}
			if kind == dropIn {
				na.lines = []string{"ListenPort = 40000"}
				na.installConfig()
				na.dropIn()
				give("setconf")
				na.ok("ip", "addr", "add", na.addr.String()+"/24", "dev", iface)
				na.ok("ip", "link", "set", iface, "up")
			} else {
				na.up()
			}
			direct := func(p peerStatus) bool { return p.State == "connected" && p.Path != nil && p.Path.Kind == "direct" }
			before := na.peerUntil(nb, "by a direct path", direct)
			na.peerUntil(nc, "by a direct path", direct)
			na.firstPing(nb.addr)
			na.firstPing(nc.addr)

			both, changed := na.peers, &na.peers[1]
			steps := func() {
				t.Helper()
				for range 3 {
					give("syncconf")
					changed.allowed = append(changed.allowed, "10.77.0.0/16")
					changed.lines = []string{"PersistentKeepalive = 5", "PresharedKey = " + key.NewPreshared().Base64()}
					give("syncconf")
					na.peers = both[:1]
					give("syncconf")
					changed.allowed, changed.lines = changed.allowed[:1], nil
					na.peers = both
					give("syncconf")
				}
			}
			losesNothing(na, nb, steps, "4")
			if after := na.connected(nb); after.Restarts != before.Restarts || after.Path.Local != before.Path.Local || after.Path.Remote != before.Path.Remote {
				t.Errorf("the session of the peer that stays is another one: before %v, after %v", before, after)
			}
			na.peerUntil(nc, "by a direct path", direct) // it comes back
			na.firstPing(nc.addr)
		})
	}
}
