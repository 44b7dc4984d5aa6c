package namespace

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	RunStage()
	runInner()
	goleak.VerifyTestMain(m)
}

var testConfig = Config{
	Interface:     "test0",
	MTU:           1380,
	Addresses:     []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("fd00::1/64")},
	Routes:        []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("::/0")},
	DNS:           []netip.Addr{netip.MustParseAddr("10.0.0.53")},
	SearchDomains: []string{"example.test"},
	Hosts:         map[string][]netip.Addr{"bob": {netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}, "two words": {netip.MustParseAddr("10.0.0.3")}},
}

// need leaves a test out where namespaces can't be made, and with which rights they can, that is what is tested.
func start(t *testing.T, argv ...string) *Namespace {
	t.Helper()
	n, err := Start(testConfig, argv)
	if errors.Is(err, ErrUnavailable) && os.Geteuid() != 0 {
		t.Skip("needs root, or user namespaces: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// run runs a shell script in a namespace, which has its file as $1, and returns what it wrote there.
func run(t *testing.T, script string) (out string, code int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "out")
	n := start(t, "/bin/sh", "-c", "exec > "+file+" 2>&1\n"+script)
	if err := n.Run(20000, 20100); err != nil {
		t.Fatal(err)
	}
	code, err := n.Wait()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), code
}

func TestWhatIsInside(t *testing.T) {
	before, err := os.ReadFile("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	out, code := run(t, `
ip -brief address
ip route
ip -6 route
cat /etc/resolv.conf /etc/hosts
cat /proc/sys/net/ipv4/ip_local_port_range
grep Cap /proc/self/status
id -u
pwd
exit 7`)
	if code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"10.0.0.1/24", "fd00::1/64", "10.1.0.0/16 dev test0", "default dev test0", "nameserver 10.0.0.53\n", "search example.test\n",
		"10.0.0.2 bob\nfd00::2 bob\n", "20000\t20100", "\n" + strconv.Itoa(os.Geteuid()) + "\n" + dir + "\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if strings.Contains(out, "words") {
		t.Errorf("a name that is none of a host is in\n%s", out)
	}
	if os.Geteuid() != 0 && !strings.Contains(out, "CapEff:\t0000000000000000") {
		t.Errorf("the command has rights in\n%s", out)
	}
	if after, err := os.ReadFile("/etc/hosts"); err != nil || string(after) != string(before) {
		t.Errorf("/etc/hosts of the system has changed, or %v", err)
	}
}

func TestEnds(t *testing.T) {
	if out, code := run(t, "kill -KILL $$"); code != 128+int(unix.SIGKILL) {
		t.Errorf("killed by a signal: exit code %d: %s", code, out)
	}
	n := start(t, "nosuchcommand")
	err := n.Run(20000, 20100)
	var command *CommandError
	if !errors.As(err, &command) || command.Code != 127 {
		t.Errorf("no such command: got %v", err)
	}
	n.Close()
	n = start(t, "/etc/hosts")
	if err := n.Run(20000, 20100); !errors.As(err, &command) || command.Code != 126 {
		t.Errorf("no program: got %v", err)
	}
	n.Close()
	start(t, "true").Close() // it never ran
}

func TestSignal(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	old := os.Stdout
	os.Stdout = w
	n := start(t, "sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done")
	os.Stdout = old
	w.Close()
	if err := n.Run(20000, 20100); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	if err := n.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, err := n.Wait(); code != 5 || err != nil {
		t.Errorf("exit code %d, %v", code, err)
	}
}

// What the command leaves in the background ends with it, and all of it when the caller dies.
func TestNothingIsLeft(t *testing.T) {
	const script = "sleep 1234 & setsid sleep 1235 & nohup sh -c 'sleep 1236 & sleep 1237' & "
	file := filepath.Join(t.TempDir(), "pids")
	n := start(t, "sh", "-c", script+"echo $$ $! > "+file+"; readlink /proc/self/ns/net >> "+file)
	if err := n.Run(20000, 20100); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Wait(); err != nil {
		t.Fatal(err)
	}
	left(t, file)

	n = start(t, "sh", "-c", script+"echo $$ > "+file+"; readlink /proc/self/ns/net >> "+file+"; echo > "+file+".done; wait")
	if err := n.Run(20000, 20100); err != nil {
		t.Fatal(err)
	}
	for _, err := os.Stat(file + ".done"); err != nil; _, err = os.Stat(file + ".done") {
	}
	n.Close() // as the kernel does for a caller that is killed
	left(t, file)
}

// left looks for processes in the network namespace that the last line of a file names.
func left(t *testing.T, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(b))
	ns := lines[len(lines)-1]
	if !strings.HasPrefix(ns, "net:[") {
		t.Fatalf("no namespace in %q", b)
	}
	for _, pid := range processes() {
		if link, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/net"); err == nil && link == ns {
			name, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
			t.Errorf("process %d is left: %q", pid, name)
		}
	}
}

// A stage that nobody has called says so, and does nothing.
func TestStageAlone(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Args = []string{stageName}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "no command of its own") {
		t.Errorf("got %v: %s", err, out)
	}
}

// Arguments are bytes, of which JSON would not keep all.
func TestArgumentsAreBytes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "out")
	n := start(t, "/bin/sh", "-c", `printf %s "$1" > `+file, "sh", "\xff\xfe ü")
	if err := n.Run(20000, 20100); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Wait(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); string(b) != "\xff\xfe ü" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
}

// What the stage could not do reaches the caller in words.
func TestSetUpFails(t *testing.T) {
	start(t, "true").Close()
	c := testConfig
	c.Interface = "lo"
	n, err := Start(c, []string{"true"})
	if err == nil {
		n.Close()
	}
	if !strings.Contains(fmt.Sprint(err), "lo: ") {
		t.Errorf("got %v", err)
	}
}

// TestMain runs this program again with these, for the tests that need a namespace or files of their own around it.
const (
	innerTest   = "inner"
	replaceTest = "replace"
)

func runInner() {
	if len(os.Args) != 2 {
		return
	}
	var err error
	switch os.Args[1] {
	case innerTest:
		err = runHere(func() error { return nil }, "cat", "/etc/resolv.conf")
	case replaceTest:
		// The command looks at what is there after the system has put others there, until they are the namespace's again.
		resolver := resolvers[0]
		serve := func() (l net.Listener, err error) { return net.Listen("unix", resolver) }
		l, listenErr := serve()
		err = errors.Join(listenErr, runHere(func() error {
			closeErr := l.Close()
			_, listenErr := serve()
			return errors.Join(closeErr, listenErr, os.WriteFile("/etc/new", []byte("nameserver 10.0.0.54\n"), 0o644), os.Rename("/etc/new", "/etc/resolv.conf"))
		}, "timeout", "20", "sh", "-c", "until [ -c "+resolver+" ] && grep 10.0.0.53 /etc/resolv.conf; do sleep 0.05; done"))
	default:
		return
	}
	if err != nil {
		fmt.Println(err)
	}
	os.Exit(0)
}

// runHere runs a command in a namespace, after something else was done when the namespace was there.
func runHere(before func() error, argv ...string) error {
	n, err := Start(testConfig, argv)
	if err != nil {
		return err
	}
	if err := errors.Join(before(), n.Run(20000, 20100)); err != nil {
		return errors.Join(err, n.Close())
	}
	_, err = n.Wait()
	return err
}

// The namespace's resolv.conf stays when the system's is replaced, and the system's resolver hidden when it starts anew.
func TestFilesStay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: /etc is another one here")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("unshare", "--mount", "sh", "-ec", `mount -t tmpfs none /mnt; cp /etc/hosts /mnt; echo > /mnt/resolv.conf; mount --move /mnt /etc
mount -t tmpfs none /run; mkdir -p /run/systemd/resolve; exec "$@"`,
		"sh", exe, replaceTest).CombinedOutput()
	if err != nil || string(out) != "nameserver 10.0.0.53\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

// A namespace can be made inside another one.
func TestInside(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if out, code := run(t, exe+" "+innerTest); code != 0 || !strings.Contains(out, "nameserver 10.0.0.53\n") {
		t.Errorf("exit code %d: %s", code, out)
	}
}

// Signals to the process group are not the stage's end, and those that the caller ignores are ignored by the command.
func TestSignalsOfOthers(t *testing.T) {
	if out, code := run(t, "kill -USR1 $PPID; kill -USR2 $PPID; kill -HUP $PPID; exit 3"); code != 3 {
		t.Errorf("exit code %d: %s", code, out)
	}
	signal.Ignore(unix.SIGHUP)
	defer signal.Reset(unix.SIGHUP)
	if out, code := run(t, "kill -HUP $$; exit 4"); code != 4 {
		t.Errorf("exit code %d: %s", code, out)
	}
}

// A command that lets nobody look at it, or has gone to another namespace, ends with the caller all the same.
func TestNothingHides(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	old := os.Stdout
	os.Stdout = w
	n := start(t, "unshare", "-Urn", "sh", "-c", "echo ready; exec sleep 1238")
	os.Stdout = old
	w.Close()
	if err := n.Run(20000, 20100); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	n.Close() // as the kernel does for a caller that is killed
	if _, err := io.ReadAll(r); err != nil {
		t.Error(err)
	}
}
