package natlab

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// Host is a machine of the lab: a network namespace with one interface, eth0,
// and its own /run (hence /var/run) and /etc.
type Host struct {
	// Name is a0, a1, b0 ... or server.
	Name string

	// Constant once the lab is made.
	lab        *Lab
	ns         namespace
	isolation  *isolation
	site       *Gateway // nil for the server
	port       string   // the site's end of the host's cable
	lan4, lan6 netip.Prefix

	mu           sync.Mutex // guards the following
	addr4, addr6 netip.Addr
	renumbered   int
}

// Addr4 returns the host's IPv4 address; invalid if it has none. Safe for concurrent use.
func (h *Host) Addr4() netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.addr4
}

// Addr6 returns the host's global IPv6 address; invalid if it has none. Safe for concurrent use.
func (h *Host) Addr6() netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.addr6
}

// Do calls f on the caller's goroutine with its thread in the host's network
// namespace: sockets that f opens belong to the host for their lifetime.
// Goroutines that f starts do not run there, so f resolves no names. The
// error is f's, or says that the namespace can't be entered. Safe for concurrent use.
func (h *Host) Do(f func() error) error { return h.ns.do(f) }

// Command returns a command that runs on the host once it is started: in its
// network namespace and with its /run and /etc, in the directory and with the
// environment of the caller. The process that is started is the program
// itself, so signals reach it. What it leaves running is ended with the lab.
// Safe for concurrent use.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	pid, err := h.isolation.open()
	// Of itself nsenter changes to the root directory. Only the shell knows where
	// it should go: the caller may still set the command's directory.
	script := fmt.Sprintf(`exec nsenter --net=/proc/%d/ns/net --mount=/proc/%d/ns/mnt --wdns="$(pwd)" -- "$@"`, pid, pid)
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", script, "natlab", name}, args...)...)
	if err != nil {
		cmd.Err = fmt.Errorf("run %s on %s: %w", name, h.Name, err)
	}
	// A daemon that is left behind may hold the pipes for ever.
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Path returns where the test finds a file of the host, say its
// /var/run/wireguard/wg0.sock. Valid until the lab is removed.
func (h *Host) Path(path string) (string, error) {
	pid, err := h.isolation.open()
	if err != nil {
		return "", fmt.Errorf("find %s of %s: %w", path, h.Name, err)
	}
	if rest, ok := cutDir(path, "/var/run"); ok {
		path = filepath.Join("/run", rest) // the link would lead to the test's own /run
	}
	return filepath.Join(fmt.Sprintf("/proc/%d/root", pid), path), nil
}

// LinkDown pulls the cable of the host: eth0 loses its carrier and keeps its addresses and routes.
func (h *Host) LinkDown() {
	h.lab.t.Helper()
	h.link("down")
}

// LinkUp plugs it in again.
func (h *Host) LinkUp() {
	h.lab.t.Helper()
	h.link("up")
}

func (h *Host) link(state string) {
	h.lab.t.Helper()
	if h.site == nil {
		h.lab.t.Fatalf("natlab: %s has no cable to pull", h.Name)
	}
	h.site.must("link "+state, h.site.node.run("", "ip", "link", "set", h.port, state))
}

// Renumber gives the host other addresses on its LAN, as after moving to another network.
func (h *Host) Renumber() {
	h.lab.t.Helper()
	if h.site == nil {
		h.lab.t.Fatalf("natlab: %s keeps its address", h.Name)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.renumbered++
	step := 20 * h.renumbered // further than a LAN has hosts
	var lines []string
	if h.addr4.IsValid() {
		own := hostIn(h.lan4, int(h.addr4.As4()[3])+step)
		lines = append(lines, fmt.Sprintf("addr del %s/%d dev eth0", h.addr4, h.lan4.Bits()), fmt.Sprintf("addr add %s dev eth0", own), "route replace 224.0.0.0/4 dev eth0")
		h.addr4 = own.Addr()
		if h.site.up != nil {
			lines = append(lines, fmt.Sprintf("route replace default via %s", hostIn(h.lan4, 1).Addr()))
		}
	}
	if h.addr6.IsValid() {
		last := h.addr6.As16()[15]
		lines = append(lines, fmt.Sprintf("addr del %s/64 dev eth0", h.addr6))
		own := hostIn(h.lan6, int(last)+step)
		h.addr6 = own.Addr()
		lines = append(lines, fmt.Sprintf("addr add %s dev eth0", own))
		if h.site.up != nil {
			lines = append(lines, fmt.Sprintf("route replace default via %s", hostIn(h.lan6, 1).Addr()))
		}
	}
	h.site.must("renumber "+h.Name, h.ns.do(func() error { return ipBatch(lines) }))
}
