package natlab

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// namespaceDir is where ip(8) keeps its named network namespaces.
const namespaceDir = "/run/netns"

// namePrefix begins the name of every namespace made here, which is
// natlab-PID-START-RANDOM-ROLE. PID and START (the process's start time in clock
// ticks) tell a later process whether the owner is still alive, also after the
// pid has been used again.
const namePrefix = "natlab-"

// namespace is one named network namespace.
type namespace struct {
	name string
}

// labName returns the part of namespace names that one lab has for itself.
func labName() (string, error) {
	start, err := startTime(os.Getpid())
	if err != nil {
		return "", err
	}
	var random [4]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s%d-%s-%s", namePrefix, os.Getpid(), start, hex.EncodeToString(random[:])), nil
}

// startTime returns the start time of a process in clock ticks since boot.
func startTime(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The command name, in parentheses, may hold spaces. The start time is field
	// 22, hence the 20th after it (proc(5)).
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return "", fmt.Errorf("read /proc/%d/stat: %d fields after the name, want at least 20", pid, len(fields))
	}
	return fields[19], nil
}

// stale reports whether name is a namespace of ours whose owner is gone.
func stale(name string) bool {
	rest, ours := strings.CutPrefix(name, namePrefix)
	parts := strings.Split(rest, "-")
	if !ours || len(parts) != 4 {
		return false
	}
	pid, err := strconv.Atoi(parts[0])
	if err != nil {
		return false
	}
	start, err := startTime(pid)
	return errors.Is(err, os.ErrNotExist) || err == nil && start != parts[1]
}

// sweep removes the namespaces of dead owners with the processes in them.
// Errors are left to the next sweep: another process may be doing the same.
func sweep() {
	entries, err := os.ReadDir(namespaceDir)
	if err != nil {
		return
	}
	var old []namespace
	for _, e := range entries {
		if stale(e.Name()) {
			old = append(old, namespace{e.Name()})
		}
	}
	if len(old) > 0 {
		killInside(old)
		_ = remove(old)
	}
}

// remove deletes namespaces, and with them the devices inside.
func remove(all []namespace) error {
	var lines []string
	for _, n := range all {
		lines = append(lines, "netns del "+n.name)
	}
	return ipBatch(lines, "-force")
}

func (n namespace) path() string { return filepath.Join(namespaceDir, n.name) }

// do calls f on the caller's goroutine with its thread moved into the
// namespace. Programs that f starts run there too; goroutines that it starts do not.
func (n namespace) do(f func() error) (err error) {
	target, err := os.Open(n.path())
	if err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	defer target.Close()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace %s: %w", n.name, err)
	}
	defer home.Close()
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace %s: %w", n.name, err)
	}
	defer func() {
		// A thread that can't be brought back stays locked, so that it ends with its goroutine.
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("leave namespace %s: %w", n.name, back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

// run runs a program inside with the given standard input.
func (n namespace) run(stdin string, name string, args ...string) error {
	return n.do(func() error { return run(stdin, name, args...) })
}

// sysctl writes settings of the form "net/ipv4/ip_forward=1".
func (n namespace) sysctl(settings []string) error {
	return n.do(func() error {
		for _, s := range settings {
			key, value, _ := strings.Cut(s, "=")
			// A kernel without the feature has nothing to switch off.
			if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("set %s: %w", s, err)
			}
		}
		return nil
	})
}

// ipBatch runs lines of ip(8) in one process.
func ipBatch(lines []string, args ...string) error {
	return run(strings.Join(lines, "\n")+"\n", "ip", append(args, "-batch", "-")...)
}

func run(stdin, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s\ninput:\n%s", name, strings.Join(args, " "), err, out, stdin)
	}
	return nil
}

// termGrace is how long a program left in a namespace has to end by itself
// before it is killed: enough for a daemon to remove its interface and sockets.
const termGrace = 2 * time.Second

// killInside ends every process inside the namespaces but the caller, and
// returns their command lines.
func killInside(all []namespace) []string {
	var commands []string
	for pid := range inside(all) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		commands = append(commands, strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " ")))
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}
	if len(commands) == 0 {
		return nil
	}
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	deadline := time.Now().Add(termGrace)
	for left := inside(all); len(left) > 0; left = inside(all) {
		if time.Now().After(deadline.Add(termGrace)) {
			break // in the kernel, beyond what a signal reaches
		}
		if time.Now().After(deadline) {
			for pid := range left {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		<-poll.C
	}
	return commands
}

// inside returns the processes whose network namespace is one of these.
func inside(all []namespace) map[int]bool {
	inodes := make(map[uint64]bool, len(all))
	for _, n := range all {
		var st unix.Stat_t
		if unix.Stat(n.path(), &st) == nil {
			inodes[st.Ino] = true
		}
	}
	found := make(map[int]bool)
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) == nil && inodes[st.Ino] {
			found[pid] = true
		}
	}
	return found
}
