package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/test/natlab"
	"github.com/wice-go/wice-go/test/program"
)

const (
	// patience is the deadline of whatever has no figure promised: far more than needed, so that a busy machine fails no test.
	patience = 30 * time.Second
	pollStep = 20 * time.Millisecond

	iface = "wg0" // on every host: they have nothing in common
)

// slots bounds the worlds that exist at once: more than the cores of a small machine would measure each other.
var slots = make(chan struct{}, 3)

// world is a lab with wice-go on its hosts.
type world struct {
	t         testing.TB
	lab       *natlab.Lab
	dir       string
	nodes     []*node
	signaling []string // lines of every node
}

// newWorld makes a lab: for a test in parallel with others, once there is a slot.
func newWorld(t testing.TB, c natlab.Config) *world {
	t.Helper()
	natlab.Need(t)
	for _, tool := range []string{"wg", "ping"} {
		needTool(t, tool)
	}
	if t, ok := t.(*testing.T); ok {
		t.Parallel()
	}
	slots <- struct{}{}
	t.Cleanup(func() { <-slots })
	w := &world{t: t, dir: t.TempDir(), lab: natlab.New(t, c)}
	t.Cleanup(w.end)
	return w
}

// newPair makes a world of two nodes that are each other's peers, behind NATs of one kind, with a rendezvous. Nothing is up yet.
func newPair(t testing.TB, nat natlab.NAT) (w *world, na, nb *node) {
	t.Helper()
	w = newWorld(t, natlab.Config{A: natlab.Site{NAT: nat}, B: natlab.Site{NAT: nat}})
	w.rendezvous()
	na, nb = w.node(w.lab.A[0]), w.node(w.lab.B[0])
	join(na, nb)
	return w, na, nb
}

func needTool(t testing.TB, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		t.Skipf("this machine lacks the program %s", tool)
	}
}

// end stops every daemon, and says all that is known when the test failed.
func (w *world) end() {
	if w.t.Failed() {
		for _, n := range w.nodes {
			n.explain()
		}
	}
	for _, n := range w.nodes {
		n.kill()
	}
}

// node is one wice-go, on a host of its own.
type node struct {
	w     *world
	host  *natlab.Host
	name  string
	iface string
	key   key.Private
	addr  netip.Addr // inside the tunnel
	file  string     // the configuration
	env   []string   // more of it

	lines []string // more of [Interface]
	peers []peer
}

// peer is a [Peer] section.
type peer struct {
	name    string
	key     key.Public
	allowed []string
	lines   []string // more of it
}

// node puts a wice-go on a host, with more lines of [Interface].
func (w *world) node(h *natlab.Host, lines ...string) *node {
	w.t.Helper()
	n := &node{w: w, host: h, name: h.Name, iface: iface, key: key.NewPrivate(), lines: lines}
	n.addr = netip.AddrFrom4([4]byte{10, 99, 0, byte(len(w.nodes) + 1)})
	w.add(n)
	return n
}

// second puts another interface on the host of a node, with a network of its own inside.
func (w *world) second(first *node, lines ...string) *node {
	w.t.Helper()
	n := &node{w: w, host: first.host, name: first.name + "-second", iface: "wg1", key: key.NewPrivate(), lines: lines}
	n.addr = netip.AddrFrom4([4]byte{10, 98, 0, byte(len(w.nodes) + 1)})
	w.add(n)
	return n
}

func (w *world) add(n *node) {
	w.t.Helper()
	dir := filepath.Join(w.dir, n.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	n.file = filepath.Join(dir, n.iface+".conf")
	w.nodes = append(w.nodes, n)
}

// join makes the nodes peers of each other.
func join(nodes ...*node) {
	for _, a := range nodes {
		for _, b := range nodes {
			if a != b {
				a.peers = append(a.peers, peer{name: b.name, key: b.key.Public(), allowed: []string{b.addr.String() + "/32"}})
			}
		}
	}
}

// config is the text of the node's file.
func (n *node) config() string {
	var b strings.Builder
	fmt.Fprintf(&b, "[Interface]\nPrivateKey = %s\nAddress = %s/24\n", n.key.Base64(), n.addr)
	for _, line := range append(n.w.signaling[:len(n.w.signaling):len(n.w.signaling)], n.lines...) {
		fmt.Fprintln(&b, line)
	}
	for _, p := range n.peers {
		fmt.Fprintf(&b, "\n[Peer]\nPublicKey = %s\n", p.key)
		if len(p.allowed) > 0 {
			fmt.Fprintf(&b, "AllowedIPs = %s\n", strings.Join(p.allowed, ", "))
		}
		if p.name != "" {
			fmt.Fprintf(&b, "#!wice Name = %s\n", p.name)
		}
		for _, line := range p.lines {
			fmt.Fprintln(&b, line)
		}
	}
	return b.String()
}

func (n *node) writeConfig() {
	n.w.t.Helper()
	if err := os.WriteFile(n.file, []byte(n.config()), 0o600); err != nil {
		n.w.t.Fatal(err)
	}
}

// result is how a command ended.
type result struct {
	args           []string
	stdout, stderr string
	code           int
	took           time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("%s: exit code %d after %v\nstdout: %s\nstderr: %s", strings.Join(r.args, " "), r.code, r.took.Round(time.Millisecond), r.stdout, r.stderr)
}

// environment is that of every command on the node. The runtime directory is the host's own /run, where root's sockets are anyway;
// naming it moves the log there too.
func (n *node) environment() []string {
	return append(append(os.Environ(), "WICE_RUNTIME_DIR=/run", "LOG_LEVEL=debug", "GOTRACEBACK=all"), n.env...)
}

// run runs a program on the node's host to its end.
func (n *node) run(name string, args ...string) result {
	n.w.t.Helper()
	return n.runContext(n.w.t.Context(), name, args...)
}

func (n *node) runContext(ctx context.Context, name string, args ...string) result {
	n.w.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	cmd := n.host.Command(ctx, name, args...)
	cmd.Env = n.environment()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	r := result{args: append([]string{filepath.Base(name)}, args...), stdout: stdout.String(), stderr: stderr.String(), took: time.Since(start)}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		n.w.t.Fatalf("%s: run %s: %v\n%s", n.name, name, err, r)
	}
	return r
}

// must runs wice-go and ends the test unless it exits with 0.
func (n *node) must(args ...string) result {
	n.w.t.Helper()
	r := n.run(wiceGo(), args...)
	if r.code != 0 {
		n.w.t.Fatalf("%s: %v", n.name, r)
	}
	return r
}

// up writes the file and brings the interface up.
func (n *node) up(flags ...string) result {
	n.w.t.Helper()
	n.writeConfig()
	return n.must(append([]string{"up", n.file}, flags...)...)
}

func (n *node) down() {
	n.w.t.Helper()
	n.must("down", n.iface)
}

// until polls until done, and ends the test with what is last known when the time is over.
func (w *world) until(limit time.Duration, what string, done func() (bool, string)) {
	w.t.Helper()
	tick := time.NewTicker(pollStep)
	defer tick.Stop()
	deadline := time.Now().Add(limit)
	for {
		ok, last := done()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not within %v; last: %s", what, limit, last)
		}
		<-tick.C
	}
}

// connected waits until the node's session with the other is connected, and returns its state.
func (n *node) connected(other *node) peerStatus {
	n.w.t.Helper()
	return n.peerUntil(other, "connected", func(p peerStatus) bool { return p.State == "connected" })
}

// peerUntil waits until the node's view of the other is as wanted.
func (n *node) peerUntil(other *node, what string, wanted func(peerStatus) bool) peerStatus {
	n.w.t.Helper()
	var p peerStatus
	n.w.until(patience, fmt.Sprintf("%s sees %s %s", n.name, other.name, what), func() (bool, string) {
		p = peerOf(n.w.t, n.status(), other.key.Public())
		return wanted(p), fmt.Sprintf("%+v", p)
	})
	return p
}

// firstPing pings the address until the first answer and returns how long that took.
func (n *node) firstPing(to netip.Addr) time.Duration {
	n.w.t.Helper()
	start := time.Now()
	r := n.run("ping", "-n", "-q", "-i", "0.02", "-c", "1", "-w", "30", to.String())
	if r.code != 0 {
		n.w.t.Fatalf("%s gets no answer from %s: %v", n.name, to, r)
	}
	return time.Since(start)
}

// upAndPing brings the node up and returns the time from there to the first answered ping.
func (n *node) upAndPing(other *node) time.Duration {
	n.w.t.Helper()
	start := time.Now()
	n.up()
	n.firstPing(other.addr)
	return time.Since(start)
}

// rendezvous is a running server.
type rendezvous struct {
	w     *world
	flags []string

	cmd    *exec.Cmd
	exited chan struct{}
	log    *program.Buffer
}

// rendezvous starts the server, whose lines every node gets.
func (w *world) rendezvous(flags ...string) *rendezvous {
	w.t.Helper()
	r := &rendezvous{w: w, flags: append([]string{"rendezvous", "--state", filepath.Join(w.dir, "rendezvous")}, flags...)}
	w.signaling = r.start()
	w.t.Cleanup(r.kill)
	return r
}

// start runs the server and returns the lines that it prints.
func (r *rendezvous) start() []string {
	r.w.t.Helper()
	r.cmd = r.w.lab.Server.Command(context.Background(), wiceGo(), r.flags...)
	r.cmd.Env = append(os.Environ(), "LOG_LEVEL=debug")
	out := new(program.Buffer)
	r.log, r.exited = new(program.Buffer), make(chan struct{})
	r.cmd.Stdout, r.cmd.Stderr = out, r.log
	if err := r.cmd.Start(); err != nil {
		r.w.t.Fatalf("start rendezvous: %v", err)
	}
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = cmd.Wait()
		close(exited)
	}(r.cmd, r.exited)
	// All lines come in one piece.
	r.w.until(patience, "rendezvous prints its lines", func() (bool, string) {
		return strings.HasSuffix(out.String(), "\n"), r.log.String()
	})
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

// kill ends the server as a crash does.
func (r *rendezvous) kill() {
	_ = r.cmd.Process.Kill()
	<-r.exited
	if r.w.t.Failed() {
		r.w.t.Logf("rendezvous:\n%s", program.Tail(r.log.String(), 60))
	}
}
