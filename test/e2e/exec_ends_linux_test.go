package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// leavesBehind is a script whose processes try to outlive it: in the background, in another session, without a parent, in namespaces of
// their own, and with a program that can't be read, whose processes nobody may look into.
const leavesBehind = `
/run/nobody/unreadable %[1]s & setsid sleep %[1]s & nohup sleep %[1]s > /dev/null &
(setsid sh -c '/run/nobody/unreadable %[1]s & sleep %[1]s & wait' &)
unshare --user --net sleep %[1]s &
unshare --user --net sleep %[1]s & `

// Whatever ends exec, all that its command has started is gone within two seconds, with the namespace and, if it was for this command alone,
// the daemon. The daemon of others stays and works.
func TestExecLeavesNothing(t *testing.T) {
	needTool(t, "unshare")
	na, nb, file := newExecPair(t)
	copyUnreadable(na, "sleep")
	before := na.snapshot()
	for n, way := range []struct{ name, target string }{{"without a daemon", file}, {"with a daemon", iface}} {
		joined := way.target == iface
		clean, files := before, 0
		if joined {
			expect(t, asNobody(na, "up", file, "--wait"), 0)
			clean, files = na.snapshot(), openFiles(t, na.daemons()[0])
		}
		for k, end := range []struct {
			name   string
			script string
			by     syscall.Signal // 0: the command ends by itself
			code   int
		}{
			{"the command's end", "exit 4", 0, 4},
			{"SIGTERM", "wait", unix.SIGTERM, 128 + int(unix.SIGTERM)},
			{"SIGKILL", "wait", unix.SIGKILL, -1},
		} {
			mark := markOf(10*n + k)
			t.Cleanup(func() {
				for _, pid := range running(" " + mark) {
					_ = syscall.Kill(pid, unix.SIGKILL)
				}
			})
			e := startAsNobody(na, nil, "exec", way.target, "--", "sh", "-c", fmt.Sprintf(leavesBehind, mark)+"readlink /proc/self/ns/net; read line; "+end.script)
			na.w.until(patience, "the processes run, and it has said where", func() (bool, string) {
				return len(running(" "+mark)) == 7 && strings.HasSuffix(e.out.String(), "\n"), fmt.Sprint(running(" "+mark), e)
			})
			namespace := strings.TrimSpace(e.out.String())
			if joined && openFiles(t, na.daemons()[0]) <= files {
				t.Fatal("the daemon has no more files open than without the command")
			}
			e.types("go on")
			if end.by != 0 {
				e.signal(end.by)
			}
			if code := e.ends(); code != end.code {
				t.Errorf("%s, %s: exit code %d, want %d: %v", way.name, end.name, code, end.code, e)
			}
			na.w.until(cleanLimit, way.name+", "+end.name+": no process is left", func() (bool, string) {
				left := append(running(" "+mark), inNamespace(namespace)...)
				return len(left) == 0, fmt.Sprint(left)
			})
			na.asBefore(clean, cleanLimit)
			if joined {
				na.w.until(cleanLimit, "the daemon has closed the interface of the namespace", func() (bool, string) {
					k := openFiles(t, na.daemons()[0])
					return k <= files, fmt.Sprintf("%d files, before %d", k, files)
				})
			}
		}
		if joined {
			expect(t, asNobody(na, "exec", iface, "--", "ping", "-n", "-c", "1", "-W", "10", nb.addr.String()), 0)
			expect(t, asNobody(na, "down", iface), 0)
		}
		na.gone(cleanLimit)
		na.asBefore(before, cleanLimit)
	}
}

// When the daemon ends, a command that has joined it is told of, lives on, and has no network any more.
func TestExecLosesDaemon(t *testing.T) {
	na, nb, file := newExecPair(t)
	echo(nb, "tcp", netip.MustParseAddrPort("[fd99::2]:7"))
	before := na.snapshot()
	for _, end := range []struct {
		name string
		do   func()
	}{
		{"down", func() { expect(t, asNobody(na, "down", iface), 0) }},
		{"SIGKILL", func() { na.signal(unix.SIGKILL) }},
	} {
		expect(t, asNobody(na, "up", file, "--wait"), 0)
		e := startAsNobody(na, nil, "exec", iface, "--", "sh")
		ping := fmt.Sprintf("ping -n -c 1 -W 1 %s > /dev/null && echo reached || echo not reached", nb.addr)
		e.types(ping)
		e.says("reached\n")
		// Open connections, of which the program reads.
		e.types(fmt.Sprintf(`for to in %s fd99::2; do bash -c "exec 3<>/dev/tcp/$to/7; echo open >&3; cat <&3 || echo broken" & done`, nb.addr))
		e.says("open\nopen\n")
		end.do()
		e.says("warning: the daemon of " + iface + " has ended")
		e.types("wait; " + ping + "; curl -s --max-time 20 http://" + nb.addr.String() + "; echo curl ends with $?; exit 6")
		if code := e.ends(); code != 6 || e.out.String() != "reached\nopen\nopen\nbroken\nbroken\nnot reached\ncurl ends with 7\n" { // 28 would be a time-out
			t.Errorf("%s: exit code %d: %v", end.name, code, e)
		}
		if strings.Count(e.errs.String(), "warning") != 1 {
			t.Errorf("%s: want one warning: %v", end.name, e)
		}
	}
	// What a killed daemon leaves, the next one takes away.
	expect(t, asNobody(na, "up", file), 0)
	expect(t, asNobody(na, "down", iface), 0)
	na.gone(cleanLimit)
	na.asBefore(before, cleanLimit)
}

// copyUnreadable puts a copy of a program into nobody's directory which nobody may run but not read.
func copyUnreadable(n *node, name string) {
	n.w.t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		n.w.t.Fatal(err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		n.w.t.Fatal(err)
	}
	dir, err := n.host.Path("/run/nobody")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "unreadable"), program, 0o711)
	}
	if err != nil {
		n.w.t.Fatal(err)
	}
}

// inNamespace lists the processes of a network namespace, as readlink names it.
func inNamespace(name string) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if link, err := os.Readlink("/proc/" + e.Name() + "/ns/net"); err == nil && link == name {
			pids = append(pids, pid)
		}
	}
	return pids
}

func openFiles(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
