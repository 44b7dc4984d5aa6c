package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/test/natlab"
)

const (
	iface = "wg0"   // on every host: they have nothing in common
	port  = "51820" // of every end on a direct path
	mtu   = "1420"  // of every tunnel

	// The ports of the servers at second ends, and of the forwards that lead to them.
	iperf3Port = "5201"
	streamPort = "5202"
	socksPort  = "1080" // of the proxy at first ends
)

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// pair is a running tunnel, in a network of its own.
type pair struct {
	t       testing.TB
	variant variant
	ends    [2]*end
	relay   *natlab.Host // nil on a direct path
	turn    *natlab.TURN // coturn, on the relay; else nil
	own     *process     // a rendezvous, on the relay; else nil
	raw     *rawRelay    // in place of a tunnel; else nil
	server  *process     // iperf3, on the second end of a tunnel
	streams *streams     // there too
	tests   int          // of that server
	seen    string       // the path as it was at first
}

// end is one end of a tunnel.
type end struct {
	t    testing.TB
	host *natlab.Host
	key  key.Private
	addr netip.Addr // inside the tunnel
	dir  string     // for files
	proc *process   // the tunnel; nil where there is none
	user bool       // which an ordinary user runs

	// path returns the way that the program says its packets take; it is an error if that is not the wanted one.
	path func() (string, error)
}

// newPair brings a tunnel up.
func newPair(t testing.TB, v variant) *pair {
	t.Helper()
	p := &pair{t: t, variant: v}
	var hosts []*natlab.Host
	if v.kind.relay == "" {
		lab := natlab.New(t, natlab.Config{Cable: true})
		hosts = []*natlab.Host{lab.A[0], lab.B[0]}
	} else {
		lab := natlab.New(t, natlab.Config{LANOnly: true, A: natlab.Site{Hosts: 3}})
		hosts, p.relay = lab.A[:2], lab.A[2]
		if v.kind.own {
			p.own = startRendezvous(p)
		} else {
			p.turn = natlab.CoTURN(t, p.relay, natlab.CoTURNOptions{})
		}
	}
	for i, h := range hosts {
		p.ends[i] = &end{t: t, host: h, key: key.NewPrivate(), addr: netip.AddrFrom4([4]byte{10, 99, 0, byte(i + 1)}), dir: t.TempDir()}
	}
	v.kind.start(p)
	a, b := p.ends[0], p.ends[1]
	if p.raw == nil {
		from, to := a, b
		if v.kind.stack { // which has no ping of its own, but answers
			from, to = b, a
		}
		until(t, fmt.Sprintf("%v: ping through the tunnel", v), func() error {
			p.alive()
			_, err := output(t, from.host, "ping", "-n", "-q", "-i", "0.05", "-c", "2", "-w", "1", to.addr.String())
			return err
		})
		p.server = start(t, b.host, nil, "iperf3", "-s", "-B", b.addr.String(), "-p", iperf3Port, "--forceflush")
		p.serverReady()
		p.streams = serveStreams(p)
	}
	until(t, fmt.Sprintf("%v: the wanted path", v), func() (err error) {
		p.seen, err = p.path()
		return err
	})
	return p
}

// alive ends the test if a tunnel has ended.
func (p *pair) alive() {
	p.t.Helper()
	for _, e := range p.ends {
		if e.proc != nil && e.proc.ended() {
			p.t.Fatalf("%v: %s: it ended (%v) and printed:\n%s", p.variant, e.proc.name, e.proc.cmd.ProcessState, &e.proc.out)
		}
	}
}

// serverReady waits until the server of iperf3 takes the next test.
func (p *pair) serverReady() {
	p.t.Helper()
	until(p.t, p.server.name, func() error {
		if p.server.ended() {
			p.t.Fatalf("%s: it ended: %s", p.server.name, &p.server.out)
		}
		if n := strings.Count(p.server.out.String(), "Server listening"); n <= p.tests {
			return fmt.Errorf("it was ready for %d tests, and ran %d", n, p.tests)
		}
		return nil
	})
	p.tests++
}

// path is what both ends say.
func (p *pair) path() (string, error) {
	a, err := p.ends[0].path()
	b, berr := p.ends[1].path()
	return a + "; " + b, errors.Join(err, berr)
}

// interfaceAt reports whether the tunnel has an interface at that end.
func (p *pair) interfaceAt(i int) bool { return p.raw == nil && (i != 0 || !p.variant.kind.stack) }

// serverAddr returns the address at which programs of the first end reach a server at the second one.
func (p *pair) serverAddr() netip.Addr {
	if p.variant.kind.stack && !p.variant.kind.exec {
		return loopback
	}
	return p.ends[1].addr
}

// client is the command line of a program at the first end that uses the tunnel.
func (p *pair) client(argv ...string) []string {
	p.t.Helper()
	if !p.variant.kind.exec {
		return argv
	}
	binary, err := p.binary()
	if err != nil {
		p.t.Fatal(err)
	}
	return p.ends[0].as(append([]string{binary, "exec", iface, "--"}, argv...)...)
}

// state is what the harness can see of a pair from outside at one moment.
type state struct {
	tunnels time.Duration // CPU time of both
	relay   time.Duration // of coturn or the rendezvous
	outer   [3]traffic    // of eth0: both ends and the relay
	inner   [2]traffic    // of the tunnels
}

// state looks at a pair, and ends the test where there is another way than the wanted one.
func (p *pair) state() state {
	p.t.Helper()
	var s state
	hosts := []*natlab.Host{p.ends[0].host, p.ends[1].host}
	if p.relay != nil {
		if p.own != nil {
			s.relay = p.own.cpu(p.t)
		} else {
			s.relay = cpuOf(p.t, p.turn.PID())
		}
		hosts = append(hosts, p.relay)
	}
	for i, h := range hosts {
		all := interfaces(p.t, h)
		want := []string{"eth0", "lo"}
		if i < 2 && p.raw == nil {
			s.tunnels += p.ends[i].proc.cpu(p.t)
		}
		if i < 2 && p.interfaceAt(i) {
			want = append(want, iface)
			s.inner[i] = all[iface]
		}
		var names []string
		for name := range all {
			names = append(names, name)
		}
		slices.Sort(names)
		if !slices.Equal(names, want) {
			p.t.Fatalf("%v: %s has the interfaces %v, want %v: the tunnel must be the only way", p.variant, h.Name, names, want)
		}
		s.outer[i] = all["eth0"]
	}
	return s
}

func interfaces(t testing.TB, h *natlab.Host) map[string]traffic {
	t.Helper()
	var all map[string]traffic
	err := h.Do(func() error {
		dev, err := os.ReadFile("/proc/thread-self/net/dev")
		if err == nil {
			all, err = parseInterfaces(string(dev))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// cost is what it took to carry something.
type cost struct{ tunnels, relay time.Duration }

// carried checks that so many bytes went from one end to the other between two states by the wanted path, and returns what that took.
func (p *pair) carried(before, after state, from, to int, bytes int64) cost {
	p.t.Helper()
	least := func(n int64, what string) {
		p.t.Helper()
		if n < bytes {
			p.t.Fatalf("%v: %d bytes were %s, less than the payload of %d: the packets took another way", p.variant, n, what, bytes)
		}
	}
	least(after.outer[from].tx-before.outer[from].tx, "sent on the cable")
	least(after.outer[to].rx-before.outer[to].rx, "received from the cable")
	if p.interfaceAt(from) {
		least(after.inner[from].tx-before.inner[from].tx, "sent into the tunnel")
	}
	if p.interfaceAt(to) {
		least(after.inner[to].rx-before.inner[to].rx, "received from the tunnel")
	}
	if p.relay != nil {
		least(after.outer[2].rx-before.outer[2].rx, "received by the relay")
		least(after.outer[2].tx-before.outer[2].tx, "sent by the relay")
	}
	p.samePath()
	return cost{after.tunnels - before.tunnels, after.relay - before.relay}
}

// samePath ends the test if the path is not the one of the beginning any more.
func (p *pair) samePath() {
	p.t.Helper()
	if now, err := p.path(); err != nil || now != p.seen {
		p.t.Fatalf("%v: the path changed from %q to %q: %v", p.variant, p.seen, now, err)
	}
}

// write makes a file that the end's programs read.
func (e *end) write(name, text string) string {
	e.t.Helper()
	file := filepath.Join(e.dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		e.t.Fatal(err)
	}
	return file
}
