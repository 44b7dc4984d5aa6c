package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wice-go/wice-go/test/program"
)

// processes returns the command lines of all processes in the network of the node's host.
func (n *node) processes() map[int]string {
	n.w.t.Helper()
	var own unix.Stat_t
	if err := n.host.Do(func() error { return unix.Stat("/proc/thread-self/ns/net", &own) }); err != nil {
		n.w.t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		n.w.t.Fatal(err)
	}
	found := make(map[int]string)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) != nil || st.Ino != own.Ino {
			continue
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if len(line) > 0 { // else it has ended
			found[pid] = strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// daemons returns the pids of the node's daemons.
func (n *node) daemons() []int {
	n.w.t.Helper()
	var pids []int
	for pid, line := range n.processes() {
		if strings.HasPrefix(line, wiceGo()+" up ") && strings.Contains(line, "--foreground") || strings.HasPrefix(line, wiceGo()+" --foreground ") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// signal sends a signal to the node's daemon, and returns when the daemon is gone and how long that took.
func (n *node) signal(sig syscall.Signal) time.Duration {
	n.w.t.Helper()
	pids := n.daemons()
	if len(pids) != 1 {
		n.w.t.Fatalf("%s has daemons %v, want one", n.name, pids)
	}
	start := time.Now()
	if err := syscall.Kill(pids[0], sig); err != nil {
		n.w.t.Fatal(err)
	}
	n.w.until(patience, n.name+"'s daemon ends", func() (bool, string) {
		return ended(pids[0]), fmt.Sprint(pids)
	})
	return time.Since(start)
}

// ended reports whether a process has closed all that it had. Its command line is gone before that, and its number stays until its
// parent has asked for it.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	// The first thread may end before the others, which have the same files open.
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	return len(threads) <= 1 && (strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X"))
}

// gone waits until the node has no daemon.
func (n *node) gone(limit time.Duration) {
	n.w.t.Helper()
	n.w.until(limit, n.name+" has no daemon any more", func() (bool, string) {
		pids := n.daemons()
		return len(pids) == 0, fmt.Sprint(pids)
	})
}

// kill ends the node's daemons at the end of a test, and waits until they are gone.
func (n *node) kill() {
	for _, pid := range n.daemons() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		n.w.until(patience, n.name+"'s daemon ends", func() (bool, string) { return ended(pid), fmt.Sprint(pid) })
	}
}

// explain logs what is known of a node.
func (n *node) explain() {
	if len(n.daemons()) > 0 {
		if cmd := n.host.Command(context.Background(), "timeout", "5", wiceGo(), "status", n.iface, "--json"); cmd != nil {
			cmd.Env = n.environment()
			out, err := cmd.CombinedOutput()
			n.w.t.Logf("%s: status: %v\n%s", n.name, err, out)
		}
	}
	path, err := n.host.Path("/run/log/" + n.iface + ".log")
	if err != nil {
		return
	}
	if log, err := os.ReadFile(path); err == nil {
		if dir := os.Getenv("E2E_LOGS"); dir != "" {
			_ = os.WriteFile(filepath.Join(dir, strings.ReplaceAll(n.w.t.Name(), "/", "-")+"-"+n.name+".log"), log, 0o644)
		}
		n.w.t.Logf("%s: the last lines of its log (all of it: set E2E_LOGS to a directory):\n%s", n.name, program.Tail(string(log), 60))
	}
}
