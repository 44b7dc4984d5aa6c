package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A command inside the tunnel is one like any other: to the shell that asks for it, for pipes and for signals.
func TestExecCommand(t *testing.T) {
	na, _, file := newExecPair(t)
	before := na.snapshot()
	expect(t, asNobody(na, "up", file), 0)
	for _, c := range []struct {
		code   int
		stderr string
		argv   []string
	}{
		{0, "", []string{"true"}},
		{7, "", []string{"sh", "-c", "exit 7"}},
		{127, "nosuchcommand", []string{"nosuchcommand"}},
		{126, "/etc/hosts", []string{"/etc/hosts"}},
		{128 + int(unix.SIGKILL), "", []string{"sh", "-c", "kill -KILL $$"}},
		{128 + int(unix.SIGSEGV), "", []string{"sh", "-c", "kill -SEGV $$"}},
	} {
		r := asNobody(na, append([]string{"exec", iface, "--"}, c.argv...)...)
		if r.code != c.code || r.stdout != "" || (c.stderr == "") != (r.stderr == "") || !strings.Contains(r.stderr, c.stderr) {
			t.Errorf("want exit code %d and %q on stderr: %v", c.code, c.stderr, r)
		}
	}
	if r := nobodyRuns(na, "sh", "-c", "cd /run/nobody && exec "+wiceGo()+" exec "+iface+" -- sh -c 'pwd; id -u; grep CapEff /proc/self/status'"); r.stdout != "/run/nobody\n65534\nCapEff:\t0000000000000000\n" {
		t.Errorf("directory, user and rights: %v", r)
	}
	e := startAsNobody(na, func(cmd *exec.Cmd) { cmd.Stdin = strings.NewReader(execPage) }, "exec", iface, "--", "cat")
	if code := e.ends(); code != 0 || e.out.String() != execPage {
		t.Errorf("cat: exit code %d, %d bytes, want %d: %s", code, len(e.out.String()), len(execPage), e.errs)
	}
	for _, s := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1} {
		e := startAsNobody(na, nil, "exec", iface, "--", "sh", "-c", fmt.Sprintf("trap 'echo trapped; exit 5' %d; echo ready; while :; do sleep 0.01; done", s))
		e.says("ready")
		e.signal(s)
		if code := e.ends(); code != 5 || strings.Count(e.out.String(), "trapped") != 1 {
			t.Errorf("%v: exit code %d: %v", s, code, e)
		}
	}
	e = startAsNobody(na, nil, "exec", iface, "--", "sh", "-c", "echo ready; exec sleep 1000")
	e.says("ready")
	e.signal(unix.SIGTERM)
	if code := e.ends(); code != 128+int(unix.SIGTERM) {
		t.Errorf("a signal that ends the command: exit code %d: %v", code, e)
	}
	// What a caller has its programs ignore, they ignore.
	e = startOn(na, nil, "setpriv", append(nobodyFlags, "nohup", wiceGo(), "exec", iface, "--", "sh", "-c", "echo ready; read line; echo $line"), nobodyEnv)
	e.says("ready")
	e.signal(unix.SIGHUP)
	e.types("alive")
	if code := e.ends(); code != 0 || !strings.Contains(e.out.String(), "alive") {
		t.Errorf("nohup: exit code %d: %v", code, e)
	}
	expect(t, asNobody(na, "down", iface), 0)
	na.asBefore(before, cleanLimit)
}

// An interactive shell inside the tunnel has the terminal: its size, and the keys that make signals, which don't end exec itself.
func TestExecTerminal(t *testing.T) {
	needTool(t, "bash")
	na, nb, file := newExecPair(t)
	expect(t, asNobody(na, "up", file, "--wait"), 0)

	master, onTerminal := terminal(t, unix.Winsize{Row: 37, Col: 91})
	shell := startAsNobody(na, onTerminal, "exec", iface, "--", "env", "PS1=ready> ", "bash", "--norc", "-i")
	watch(shell, master)
	shell.says("ready> ")
	shell.types("stty size")
	shell.says("37 91\r\n")
	resize(t, master, unix.Winsize{Row: 24, Col: 80})
	shell.types("stty size")
	shell.says("24 80\r\n")
	mark := markOf(1)
	shell.types("sleep " + mark)
	waitRuns(shell, "sleep "+mark)
	shell.types("\x03")
	shell.types("echo status $?")
	shell.says("status 130\r\n")
	shell.types("sleep " + mark)
	waitRuns(shell, "sleep "+mark)
	shell.types("\x1a")
	shell.says("Stopped")
	shell.types("kill %1; curl --silent --max-time 20 http://" + nb.name + "/ | head -c 6")
	shell.says("a page")
	shell.types("exit 9")
	if code := shell.ends(); code != 9 {
		t.Errorf("exit code %d: %v", code, shell)
	}

	// From an interactive shell: the key that stops programs stops all of exec, and "fg" has it go on.
	master, onTerminal = terminal(t, unix.Winsize{Row: 24, Col: 80})
	outer := startOn(na, onTerminal, "setpriv", append(nobodyFlags, "env", "PS1=ready> ", "bash", "--norc", "-i"), nobodyEnv)
	watch(outer, master)
	outer.says("ready> ")
	mark = markOf(2)
	outer.types(wiceGo() + " exec " + iface + " -- sleep " + mark)
	// Before that, a process that is being made has the command line of exec: it can't be stopped in the middle of that, nor can exec.
	na.w.until(patience, "the command runs", func() (bool, string) {
		return slices.ContainsFunc(running("sleep "+mark), func(pid int) bool { return commandLine(pid) == "sleep "+mark }), outer.String()
	})
	outer.types("\x1a")
	outer.says("Stopped")
	outer.types("fg")
	na.w.until(patience, "the command goes on", func() (bool, string) { return !stopped(running("sleep " + mark)), outer.String() })
	outer.types("\x03")
	outer.types("echo status $?")
	outer.says("status 130\r\n")
	outer.types("exit")
	outer.ends()

	// Without a shell between them, exec gets the key's signal as well as the command.
	master, onTerminal = terminal(t, unix.Winsize{Row: 24, Col: 80})
	command := startAsNobody(na, onTerminal, "exec", iface, "--", "sh", "-c", "trap 'echo trapped; exit 3' INT; echo ready; while :; do sleep 0.01; done")
	watch(command, master)
	command.says("ready")
	command.types("\x03")
	if code := command.ends(); code != 3 || strings.Count(command.out.String(), "trapped") != 1 {
		t.Errorf("exit code %d: %v", code, command)
	}
	expect(t, asNobody(na, "down", iface), 0)
}

// terminal makes a pseudo-terminal, and the change by which a program has it.
func terminal(t *testing.T, size unix.Winsize) (*os.File, func(*exec.Cmd)) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	var number int
	err = controlFD(master, func(fd int) (err error) {
		number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	})
	if err != nil {
		t.Fatal(err)
	}
	resize(t, master, size)
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, func(cmd *exec.Cmd) {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	}
}

func controlFD(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var doErr error
	err = raw.Control(func(fd uintptr) { doErr = do(int(fd)) })
	return errors.Join(err, doErr)
}

func resize(t *testing.T, master *os.File, size unix.Winsize) {
	t.Helper()
	if err := controlFD(master, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &size) }); err != nil {
		t.Fatal(err)
	}
}

// watch has the execution's output be what its terminal shows, and its input what is typed there.
func watch(e *execution, master *os.File) {
	e.stdin = master
	go func() { _, _ = io.Copy(e.out, master) }()
}

// markOf returns a duration for sleep that no other process has: a mark of those that belong to this test program.
func markOf(test int) string { return fmt.Sprintf("%d%d", 1_000_000+os.Getpid(), test) }

// running lists the processes whose command line is this, or has it at its end.
func running(line string) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if strings.HasSuffix(commandLine(pid), line) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func commandLine(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.TrimSpace(strings.ReplaceAll(string(text), "\x00", " "))
}

// stopped reports whether one of the processes is.
func stopped(pids []int) bool {
	return slices.ContainsFunc(pids, func(pid int) bool {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return strings.Contains(string(stat), ") T ")
	})
}

func waitRuns(e *execution, line string) {
	e.n.w.t.Helper()
	e.n.w.until(patience, line+" runs", func() (bool, string) { return len(running(line)) > 0, e.String() })
}
