package tun

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

// newNamespace moves the test into a network namespace of its own, with a default route. The thread is never
// unlocked, so it ends with the test, and the namespace with it. Programs that the test starts are in it too.
func newNamespace(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, for a network namespace")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare: %v", err)
	}
	shell(t, `ip link set lo up
		ip link add out type veth peer name far
		for i in out far; do ip link set $i addrgenmode none && ip link set $i up; done
		ip addr add 192.0.2.2/24 dev out && ip route add default via 192.0.2.1
		ip addr add 2001:db8:ffff::2/64 dev out nodad && ip route add default via 2001:db8:ffff::1`)
	if err := awaitReady(); err != nil {
		t.Fatal(err)
	}
	useTools(t, "resolvconf")
}

// awaitReady waits for what the kernel does in the background after a command has returned: an interface that is set up gets its carrier, and
// loses what is sent until then; IPv6 gets its routes, and loses what arrives. Snapshots taken before and after that would differ, too.
func awaitReady() error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		err := notReady()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// notReady says what an interface that is set up still lacks, or else nil.
func notReady() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagUp == 0 || a.Flags&net.FlagLoopback != 0 {
			continue
		}
		if a.OperState != netlink.OperUp && a.OperState != netlink.OperUnknown { // a TUN has no state
			return fmt.Errorf("%s is %s", a.Name, a.OperState)
		}
		if off, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + a.Name + "/disable_ipv6"); err != nil || off[0] == '1' {
			continue
		}
		want := []string{"ff00::/8"}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			want = append(want, addr.IP.String()+"/128")
		}
		local := &netlink.Route{LinkIndex: a.Index, Table: unix.RT_TABLE_LOCAL}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, local, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
		if err != nil {
			return err
		}
		for _, dst := range want {
			if !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.String() == dst }) {
				return fmt.Errorf("%s has no route of %s", a.Name, dst)
			}
		}
	}
	return nil
}

// useTools puts a directory first in PATH with recording stand-ins for what would reach beyond the namespace.
func useTools(t *testing.T, names ...string) (log string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "sbin")
	log = filepath.Join(dir, "log")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		script := fmt.Sprintf("#!/bin/sh\necho \"%s $*\" >>%s\ncat >>%s\n", name, log, log)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":/usr/sbin:/usr/bin:/sbin:/bin")
	return log
}

func shell(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// snapshot is everything that Configure may change.
func snapshot(t *testing.T) string {
	t.Helper()
	return shell(t, `ip -o link show; ip -o addr show; ip -d -4 rule; ip -d -6 rule
		ip -d -4 route show table all; ip -d -6 route show table all; nft list ruleset; sysctl net.ipv4.conf.all.src_valid_mark`)
}

func openDevice(t *testing.T, name string) wgtun.Device {
	t.Helper()
	dev, err := Open(name, 0)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for range dev.Events() { // its listener blocks when nobody reads
		}
	}()
	t.Cleanup(func() { _ = dev.Close() })
	shell(t, "ip link set "+name+" addrgenmode none") // the kernel would add an address when it likes, also between two snapshots
	return dev
}

func openTestJournal(t *testing.T) (*Journal, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run", "wice-go", "wg.journal")
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j, path
}

// fullTunnel is a configuration that uses all that there is.
func fullTunnel() Config {
	return Config{
		Addresses: prefixes("10.9.0.1/24", "fd00:9::1/64"),
		DNS:       []netip.Addr{netip.MustParseAddr("10.9.0.53")}, SearchDomains: []string{"example.org"},
		Routes: prefixes("0.0.0.0/0", "::/0", "10.9.0.2/32", "192.168.77.0/24", "fd00:9:1::/48"),
	}
}

// playPart is what the test binary does as a child.
func playPart(part string) error {
	switch part {
	case "can-create":
		err := CanCreate()
		fmt.Println(errors.Is(err, ErrPermission), err)
		return nil
	case "open-file":
		return playOpenFile()
	case "wireguard":
		return playWireGuard(os.Args[1])
	}
	j, err := OpenJournal(os.Args[1])
	if err != nil {
		return err
	}
	if err := j.Note("PostDown", "echo down"); err != nil {
		return err
	}
	if _, err := Open("wgt0", 0); err != nil {
		return err
	}
	if _, err := Configure("wgt0", fullTunnel(), j); err != nil {
		return err
	}
	fmt.Println("ready")
	select {} // until killed
}

// playWireGuard is a userspace WireGuard that wg and wg-quick can drive, until its interface is removed.
func playWireGuard(name string) error {
	dev, err := Open(name, 0)
	if err != nil {
		return err
	}
	wg := device.NewDevice(dev, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	file, err := ipc.UAPIOpen(name)
	if err != nil {
		return err
	}
	listener, err := ipc.UAPIListen(name, file)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go wg.IpcHandle(c)
		}
	}()
	if err := os.WriteFile(os.Getenv("WICE_TUN_TEST_READY"), nil, 0o600); err != nil {
		return err
	}
	<-wg.Wait()
	return listener.Close() // removes the socket
}

func startChild(t *testing.T, part string, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), childEnv+"="+part)
	cmd.Stderr = os.Stderr
	// The thread, not the process, is the parent in question, and it ends with the test at the latest.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewReader(out)
}

func TestCanCreate(t *testing.T) {
	newNamespace(t)
	before := shell(t, "ip -o link show")
	if err := CanCreate(); err != nil {
		t.Errorf("as root: %v", err)
	}
	if after := shell(t, "ip -o link show"); after != before {
		t.Errorf("links changed: %s", after)
	}
	// Nobody cannot reach a directory of root's, so the child is run by its open file.
	self, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	cmd := exec.Command("/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{self}
	cmd.Dir = "/"
	cmd.Env = []string{childEnv + "=can-create"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.HasPrefix(out, []byte("true ")) {
		t.Errorf("as nobody: got %q, %v, want ErrPermission", out, err)
	}
}

func TestOpenErrors(t *testing.T) {
	newNamespace(t)
	for _, c := range []struct {
		name string
		want error
	}{{"", ErrName}, {"..", ErrName}, {"a/b", ErrName}, {"sixteen-letters-", ErrName}, {"out", ErrExists}, {"lo", ErrExists}} {
		if _, err := Open(c.name, 0); !errors.Is(err, c.want) {
			t.Errorf("Open(%q): got %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := Open("wgt0", 67); err == nil {
		t.Error("an MTU of 67 was accepted")
	}
	dev := openDevice(t, "wgt0")
	if _, err := Open("wgt0", 0); !errors.Is(err, ErrExists) {
		t.Errorf("second Open: got %v, want %v", err, ErrExists)
	}
	if mtu, err := dev.MTU(); mtu != DefaultMTU || err != nil {
		t.Errorf("MTU: got %d, %v", mtu, err)
	}
}

// normal drops from a listing what differs between any two interfaces: indexes, link-local addresses, the kernel's own
// multicast and cache entries.
func normal(s string) string {
	var keep []string
	for _, line := range strings.Split(s, "\n") {
		if !strings.Contains(line, "fe80") && !strings.Contains(line, "ff00::") {
			keep = append(keep, strings.TrimSpace(regexp.MustCompile(`handle \d+`).ReplaceAllString(line, "")))
		}
	}
	return strings.Join(keep, "\n")
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
