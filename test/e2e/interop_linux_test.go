package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/test/natlab"
)

// wireguard is one end of a tunnel between two implementations.
type wireguard struct {
	name string
	key  key.Private
	addr netip.Addr // inside the tunnel
	port int

	outside func() netip.Addr          // its address, as the other end sees it
	sh      func(script string) result // runs a shell script where its interface is
	set     func(config string)        // gives the interface its keys and peer, and brings it up; again for others
	move    func()                     // gives it another address
	echo    func(port uint16)          // serves TCP inside the tunnel
}

func (e *wireguard) endpoint() netip.AddrPort { return netip.AddrPortFrom(e.outside(), uint16(e.port)) }

// file is what "wg setconf" reads.
func (e *wireguard) file(other *wireguard, psk string) string {
	return fmt.Sprintf("[Interface]\nPrivateKey = %s\nListenPort = %d\n[Peer]\nPublicKey = %s\nAllowedIPs = %s/32\nEndpoint = %v\nPersistentKeepalive = 1\n%s",
		e.key.Base64(), e.port, other.key.Public(), other.addr, other.endpoint(), psk)
}

// wg returns the value that "wg show" has of the only peer.
func (e *wireguard) wg(field string) string {
	_, value, _ := strings.Cut(e.sh("wg show "+iface+" "+field).stdout, "\t")
	return strings.TrimSpace(value)
}

// The kinds of ends that run on a node.
const (
	dropIn  = "wice-go IFACE"
	wiceUp  = "wice-go up"
	plainGo = "wireguard-go"
)

// end starts one kind of WireGuard on the node.
func (n *node) end(kind string, family *natlab.Family) *wireguard {
	n.w.t.Helper()
	e := &wireguard{name: kind + " on " + n.name, key: n.key, addr: n.addr, port: 40000,
		outside: func() netip.Addr {
			if *family == natlab.IPv6 {
				return n.host.Addr6()
			}
			return n.host.Addr4()
		},
		sh:   func(script string) result { n.w.t.Helper(); return n.run("sh", "-c", script) },
		move: func() { n.host.Renumber() },
		echo: func(port uint16) { echo(n, "tcp", netip.AddrPortFrom(netip.IPv4Unspecified(), port)) },
	}
	n.quiet()
	address := fmt.Sprintf("ip addr replace %s/24 dev %s && ip link set %[2]s up", n.addr, iface)
	e.set = func(config string) {
		n.w.t.Helper()
		n.ok("sh", "-c", "wg setconf "+iface+" /dev/stdin <<EOF\n"+config+"\nEOF\n"+address)
	}
	switch kind {
	case dropIn:
		n.dropIn()
	case plainGo:
		n.startPlain()
	case wiceUp:
		e.set = func(config string) {
			n.w.t.Helper()
			config = strings.Replace(config, "[Peer]", fmt.Sprintf("Address = %s/24\n[Peer]", n.addr), 1)
			n.ok("sh", "-c", "umask 077; cat > "+n.file+" <<EOF\n"+config+"\nEOF")
			n.must("up", n.file)
		}
	}
	return e
}

// interop has two ends find each other by the endpoints that they were given, and then by roaming. The first one is on a node.
func interop(w *world, na *node, a, b *wireguard, preshared bool) {
	t := w.t
	t.Helper()
	psk := ""
	if preshared {
		psk = "PresharedKey = " + key.NewPreshared().Base64()
	}
	b.set(b.file(a, psk))
	a.set(a.file(b, psk))
	both := [][2]*wireguard{{a, b}, {b, a}}
	for _, p := range both {
		w.until(patience, p[0].name+": keep-alives make a handshake", func() (bool, string) {
			at := p[0].wg("latest-handshakes")
			return at != "" && at != "0", at
		})
		if got := p[0].wg("persistent-keepalive"); got != "1" {
			t.Errorf("%s: got the keep-alive %q, want 1", p[0].name, got)
		}
		if got := p[0].wg("preshared-keys"); got == "(none)" == preshared {
			t.Errorf("%s: got the preshared key %q, want one: %v", p[0].name, got, preshared)
		}
	}
	agree := func(when string) {
		t.Helper()
		for _, p := range both {
			w.until(patience, fmt.Sprintf("%s: %s knows where %s is", when, p[0].name, p[1].name), func() (bool, string) {
				got, want := p[0].wg("endpoints"), p[1].endpoint().String()
				return got == want, fmt.Sprintf("%s, want %s", got, want)
			})
			if r := p[0].sh(fmt.Sprintf("ping -c 1 -w 30 %s", p[1].addr)); r.code != 0 {
				t.Fatalf("%s: %s gets no answer: %v", when, p[0].name, r)
			}
		}
	}
	agree("static")
	exchange(na, netip.AddrPortFrom(b.addr, 7))

	// The second end sends keep-alives, and else only answers: these alone tell the first one where it is now.
	for _, p := range both {
		stream := na.pingStream(b.addr)
		p[0].move()
		p[0].port++
		if r := p[0].sh(fmt.Sprintf("wg set %s listen-port %d", iface, p[0].port)); r.code != 0 {
			t.Fatalf("%s: %v", p[0].name, r)
		}
		agree(p[0].name + " has moved")
		stream.repliesAfter(10)
		lost, outage := stream.stop()
		t.Logf("%s moves: %d pings lost, longest outage %v", p[0].name, lost, outage.Round(ms))
	}
	exchange(na, netip.AddrPortFrom(b.addr, 7))
}

// exchange sends a megabyte to an echo service, and wants it back.
func exchange(from *node, to netip.AddrPort) {
	from.w.t.Helper()
	var conn net.Conn
	err := from.host.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", to.String(), patience)
		return err
	})
	if err != nil {
		from.w.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		from.w.t.Fatal(err)
	}
	data := make([]byte, 1<<20)
	_, _ = rand.Read(data)
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- err
	}()
	back := make([]byte, len(data))
	k, err := io.ReadFull(conn, back)
	if err != nil || !bytes.Equal(data, back) {
		from.w.t.Errorf("TCP to %s: %d of %d bytes came back, the same: %v; %v", to, k, len(data), bytes.Equal(data, back), err)
	}
	if err := <-sent; err != nil {
		from.w.t.Errorf("TCP to %s: %v", to, err)
	}
}

// Each of wice-go and wireguard-go takes the other for one of its own. The row without wice-go shows that the test asks for nothing that
// WireGuard doesn't give.
func TestInterop(t *testing.T) {
	for _, kinds := range [][2]string{{dropIn, dropIn}, {dropIn, plainGo}, {plainGo, plainGo}, {wiceUp, plainGo}, {wiceUp, dropIn}} {
		for _, family := range []natlab.Family{natlab.IPv4, natlab.IPv6} {
			version := map[natlab.Family]string{natlab.IPv4: "IPv4", natlab.IPv6: "IPv6"}[family]
			t.Run(strings.Join(kinds[:], " and ")+" over "+version, func(t *testing.T) {
				w := newWorld(t, natlab.Config{Family: family})
				na, nb := w.node(w.lab.A[0]), w.node(w.lab.B[0])
				a, b := na.end(kinds[0], &family), nb.end(kinds[1], &family)
				b.echo(7)
				interop(w, na, a, b, family == natlab.IPv6)
			})
		}
	}
}
