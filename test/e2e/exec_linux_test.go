package e2e

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/wice-go/wice-go/test/natlab"
	"github.com/wice-go/wice-go/test/program"
)

// execPage is what the peer's HTTP server has.
var execPage = strings.Repeat("a page behind the tunnel\n", 100_000)

// newExecPair makes a host behind a NAT whose user nobody runs commands in the tunnel, and a peer with a kernel TUN that serves. Inside the
// tunnel both have IPv4 and IPv6. The peer is up.
func newExecPair(t *testing.T) (na, nb *node, file string) {
	t.Helper()
	for _, tool := range []string{"setpriv", "curl", "iperf3", "ncat"} {
		needTool(t, tool)
	}
	site := natlab.Site{NAT: natlab.PortRestricted, NoIPv6: true}
	w := newWorld(t, natlab.Config{Family: natlab.DualStack, A: site, B: site})
	w.rendezvous()
	na, nb = w.node(w.lab.A[0], "Address = fd99::1/64", "DNS = 10.99.0.2"), w.node(w.lab.B[0], "Address = fd99::2/64")
	join(na, nb)
	na.peers[0].allowed = append(na.peers[0].allowed, "fd99::2/128")
	nb.peers[0].allowed = append(nb.peers[0].allowed, "fd99::1/128")
	nb.up()
	serveHTTP(nb, netip.AddrPortFrom(nb.addr, 80), execPage)
	serveHTTP(nb, netip.MustParseAddrPort("[fd99::2]:80"), execPage)
	serveDNS(nb, netip.AddrPortFrom(nb.addr, 53))
	echo(nb, "tcp", netip.AddrPortFrom(nb.addr, 7))
	return na, nb, nobodyFile(na, na.config(), 0o600, 65534)
}

// execution is a command that runs as nobody on a node's host.
type execution struct {
	n         *node
	cmd       *exec.Cmd
	stdin     io.WriteCloser // nil: it was given
	out, errs *program.Buffer
	ended     chan struct{}
}

// startAsNobody runs wice-go as nobody, beside the test. It is killed at the end.
func startAsNobody(n *node, change func(*exec.Cmd), args ...string) *execution {
	n.w.t.Helper()
	return startOn(n, change, "setpriv", append(nobodyFlags, append([]string{wiceGo()}, args...)...), nobodyEnv)
}

func startOn(n *node, change func(*exec.Cmd), name string, args, env []string) *execution {
	n.w.t.Helper()
	e := &execution{n: n, out: new(program.Buffer), errs: new(program.Buffer), ended: make(chan struct{})}
	e.cmd = n.host.Command(context.Background(), name, args...)
	e.cmd.Env = append(n.environment(), env...)
	e.cmd.Stdout, e.cmd.Stderr = e.out, e.errs
	if change != nil {
		change(e.cmd)
	}
	var err error
	if e.cmd.Stdin == nil {
		if e.stdin, err = e.cmd.StdinPipe(); err != nil {
			n.w.t.Fatal(err)
		}
	}
	if err := e.cmd.Start(); err != nil {
		n.w.t.Fatal(err)
	}
	go func() {
		defer close(e.ended)
		_ = e.cmd.Wait()
	}()
	n.w.t.Cleanup(func() {
		_ = e.cmd.Process.Kill()
		<-e.ended
	})
	return e
}

func (e *execution) String() string {
	return fmt.Sprintf("%v\nstdout: %s\nstderr: %s", e.cmd.Args[3:], e.out, e.errs)
}

// says waits until the command has written this.
func (e *execution) says(text string) {
	e.n.w.t.Helper()
	e.n.w.until(patience, fmt.Sprintf("the command says %q", text), func() (bool, string) {
		return strings.Contains(e.out.String(), text) || strings.Contains(e.errs.String(), text), e.String()
	})
}

// types writes a line to the command.
func (e *execution) types(line string) {
	e.n.w.t.Helper()
	if _, err := io.WriteString(e.stdin, line+"\n"); err != nil {
		e.n.w.t.Fatalf("%v: %v", err, e)
	}
}

func (e *execution) signal(s syscall.Signal) {
	e.n.w.t.Helper()
	if err := e.cmd.Process.Signal(s); err != nil {
		e.n.w.t.Fatal(err)
	}
}

// ends waits for the end, and returns the exit code.
func (e *execution) ends() int {
	e.n.w.t.Helper()
	e.n.w.until(patience, "the command ends", func() (bool, string) {
		select {
		case <-e.ended:
			return true, ""
		default:
			return false, e.String()
		}
	})
	return e.cmd.ProcessState.ExitCode()
}

// What programs do in the network, they do in the tunnel: for a user without any right, with a daemon and without one.
func TestExecPrograms(t *testing.T) {
	na, nb, file := newExecPair(t)
	before := na.snapshot()
	for port := 5201; port <= 5204; port++ { // one for each: a server that is about to begin anew resets connections
		startOn(nb, nil, "iperf3", []string{"-s", "-p", fmt.Sprint(port), "--forceflush"}, nil).says("Server listening")
	}
	const iperf = "iperf3 -c 10.99.0.2 -p %s > $TMPDIR/report; cat $TMPDIR/report; grep receiver $TMPDIR/report | grep -v '(100%%)'"
	programs := [][2]string{
		{"ping by IPv4", "ping -n -c 3 -i 0.05 -W 10 10.99.0.2"},
		{"ping by IPv6", "ping -n -c 3 -i 0.05 -W 10 fd99::2"},
		{"ping by name of the peer", "ping -c 3 -i 0.05 -W 10 " + nb.name},
		{"ping by a name of the DNS server", "ping -4 -n -c 3 -i 0.05 -W 10 " + dnsName},
		{"curl by IPv4", fetch(nb.addr.String()) + " | grep -x whole"},
		{"curl by IPv6", fetch("[fd99::2]") + " | grep -x whole"},
		{"curl by name of the peer", fetch(nb.name) + " | grep -x whole"},
		{"curl by a name of the DNS server", fetch(dnsName) + " | grep -x whole"},
		{"the C library", "[ \"$(getent ahostsv4 " + dnsName + " | sed 's/ .*//;q')\" = 10.99.0.2 ]"},
		{"an unknown name", "! getent hosts absent.inside.test"},
		{"iperf3 out, TCP", fmt.Sprintf(iperf, "5201 -n 4M")},
		{"iperf3 in, TCP", fmt.Sprintf(iperf, "5202 -n 4M -R")},
		{"iperf3 out, UDP", fmt.Sprintf(iperf, "5203 -n 1M -u -b 40M")},
		{"iperf3 in, UDP", fmt.Sprintf(iperf, "5204 -n 1M -u -b 40M -R")},
	}
	var script strings.Builder
	for _, p := range programs {
		fmt.Fprintf(&script, "{ %s; } && echo 'works: %s' || echo 'fails: %[2]s'\n", p[1], p[0])
	}
	script.WriteString("rm $TMPDIR/report")
	for _, way := range []struct{ name, target string }{{"without a daemon", file}, {"with a daemon", iface}} {
		if way.target == iface {
			expect(t, asNobody(na, "up", file, "--wait"), 0, "no kernel TUN here")
		}
		r := asNobody(na, "exec", way.target, "--", "sh", "-c", script.String())
		if r.code != 0 || strings.Contains(r.stdout, "fails: ") {
			t.Errorf("%s: %v", way.name, r)
		}
		for _, p := range programs {
			if !strings.Contains(r.stdout, "works: "+p[0]+"\n") {
				t.Errorf("%s: %s does not work", way.name, p[0])
			}
		}
		t.Logf("%s: %v", way.name, r.took.Round(ms))
		if way.target == file {
			na.gone(cleanLimit)
			na.asBefore(before, cleanLimit)
		}
	}
	expect(t, asNobody(na, "down", iface), 0)
	na.gone(cleanLimit)
	na.asBefore(before, cleanLimit)
}
