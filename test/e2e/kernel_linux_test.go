package e2e

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/test/natlab"
	"github.com/wice-go/wice-go/test/program"
)

// kernelDir is where "make deps" unpacks a kernel of Debian's.
const kernelDir = "../../bin/kernel"

// guest is a machine of its own, with Linux's own WireGuard, in the place of a host: it has that one's cable and addresses.
type guest struct {
	w     *world
	in    io.Writer
	pipe  *os.File
	out   *bufio.Reader // of the pipe
	calls int

	addr4, addr6 netip.Addr
	via          []string // the gateways
}

// guestInit has the guest run what comes by its second serial port: lines of a number and a script in base64.
const guestInit = `#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t devtmpfs dev /dev
for m in /modules/*; do insmod $m; done
echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
ip link set lo up && ip link set eth0 up && ip link add wg0 type wireguard
exec < /dev/ttyS1 > /dev/ttyS1
stty raw -echo
echo ready
while read -r number script; do
	echo $script | base64 -d > /tmp/script
	sh /tmp/script > /tmp/out 2>&1 < /dev/null
	code=$?
	cat /tmp/out
	echo "=$number $code"
done
`

// newGuest boots a machine in the place of the host.
func (w *world) newGuest(h *natlab.Host) *guest {
	w.t.Helper()
	kernels, _ := filepath.Glob(filepath.Join(kernelDir, "boot", "vmlinuz-*"))
	if len(kernels) != 1 {
		w.t.Skipf("want one kernel in %s, got %v: run make deps, as root on Debian", kernelDir, kernels)
	}
	image, console := filepath.Join(w.dir, "initrd"), filepath.Join(w.dir, "console")
	archive, err := initrd()
	if err == nil {
		err = os.WriteFile(image, archive, 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	on := func(script string) string {
		w.t.Helper()
		out, err := h.Command(w.t.Context(), "sh", "-ec", script).CombinedOutput()
		if err != nil {
			w.t.Fatalf("%s: %v: %s", script, err, out)
		}
		return string(out)
	}
	via := []string{fields(on("ip -4 route show default"))[2], fields(on("ip -6 route show default"))[2]}
	on(`ip addr flush dev eth0
		ip link add br0 type bridge mcast_snooping 0
		ip tuntap add tap0 mode tap vnet_hdr
		for port in eth0 tap0; do ip link set $port master br0 && ip link set $port up; done
		ip link set br0 up`)

	cmd := h.Command(context.Background(), "qemu-system-x86_64", "-M", "q35,accel=tcg", "-cpu", "max", "-m", "192", "-nodefaults", "-no-user-config",
		"-display", "none", "-no-reboot", "-serial", "file:"+console, "-serial", "stdio", "-kernel", kernels[0], "-initrd", image,
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off", "-netdev", "tap,id=n,ifname=tap0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=n")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	r, stdout, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	stderr := new(program.Buffer)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err = cmd.Start()
	stdout.Close()
	if err != nil {
		w.t.Fatal(err)
	}
	g := &guest{w: w, in: stdin, pipe: r, out: bufio.NewReader(r), addr4: h.Addr4(), addr6: h.Addr6(), via: via}
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		r.Close()
		if log, err := os.ReadFile(console); w.t.Failed() && err == nil {
			w.t.Logf("the guest:\n%s\nqemu: %s", program.Tail(string(log), 60), stderr)
		}
	})
	if line := g.read(); line != "ready" {
		w.t.Fatalf("the guest does not boot: it says %q", line)
	}
	g.address()
	return g
}

// address gives the guest its addresses, in the place of others.
func (g *guest) address() {
	g.w.t.Helper()
	g.must("ip -4 addr flush dev eth0; ip -6 addr flush dev eth0 scope global; ip addr add %s/24 dev eth0; ip addr add %s/64 dev eth0", g.addr4, g.addr6)
	g.must("ip -4 route add default via %s; ip -6 route replace default via %s", g.via[0], g.via[1])
}

// read returns the next line that the guest prints.
func (g *guest) read() string {
	g.w.t.Helper()
	err := g.pipe.SetReadDeadline(time.Now().Add(4 * patience)) // there is no hardware behind it
	if err != nil {
		g.w.t.Fatal(err)
	}
	line, err := g.out.ReadString('\n')
	if err != nil {
		g.w.t.Fatalf("the guest is silent: %v", err)
	}
	return strings.TrimSpace(line)
}

// sh runs a script in the guest.
func (g *guest) sh(script string) result {
	g.w.t.Helper()
	g.calls++
	if _, err := fmt.Fprintf(g.in, "%d %s\n", g.calls, base64.StdEncoding.EncodeToString([]byte(script))); err != nil {
		g.w.t.Fatal(err)
	}
	r := result{args: []string{script}}
	for {
		line := g.read()
		if code, ok := strings.CutPrefix(line, fmt.Sprintf("=%d ", g.calls)); ok {
			r.code, _ = strconv.Atoi(code)
			return r
		}
		r.stdout += line + "\n"
	}
}

func (g *guest) must(format string, args ...any) {
	g.w.t.Helper()
	if r := g.sh("set -e; " + fmt.Sprintf(format, args...)); r.code != 0 {
		g.w.t.Fatalf("guest: %v", r)
	}
}

// end is the WireGuard of the guest's kernel.
func (g *guest) end(addr netip.Addr, family *natlab.Family) *wireguard {
	return &wireguard{name: "Linux", key: key.NewPrivate(), addr: addr, port: 40000,
		outside: func() netip.Addr {
			if *family == natlab.IPv6 {
				return g.addr6
			}
			return g.addr4
		},
		sh: g.sh,
		set: func(config string) {
			g.must("cat > /tmp/conf <<EOF\n%s\nEOF\nwg setconf %s /tmp/conf\nip addr flush dev %[2]s; ip addr add %[3]s/24 dev %[2]s; ip link set %[2]s up", config, iface, addr)
		},
		move: func() {
			for range 20 { // further than a LAN has hosts
				g.addr4, g.addr6 = g.addr4.Next(), g.addr6.Next()
			}
			g.address()
		},
		echo: func(port uint16) { g.must("nc -ll -p %d -e cat &", port) },
	}
}

// initrd is the root of the guest: busybox, wg, and the kernel's modules in the order in which they are loaded.
func initrd() ([]byte, error) {
	files := map[string]string{"bin/busybox": "busybox", "bin/wg": "wg"}
	names := []string{"bin/busybox", "bin/wg"}
	for name, tool := range files {
		path, err := exec.LookPath(tool)
		if err != nil {
			return nil, err
		}
		files[name] = path
	}
	libraries, err := exec.Command("ldd", files["bin/wg"]).Output()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w", files["bin/wg"], err)
	}
	for _, word := range fields(string(libraries)) {
		if strings.HasPrefix(word, "/") {
			names = append(names, word[1:])
			files[word[1:]] = word
		}
	}
	modules, err := kernelModules("virtio_pci", "virtio_net", "wireguard")
	if err != nil {
		return nil, err
	}
	for i, m := range modules {
		name := fmt.Sprintf("modules/%02d-%s", i, filepath.Base(m))
		names = append(names, name)
		files[name] = m
	}

	var b bytes.Buffer
	made := make(map[string]bool)
	var directory func(name string)
	directory = func(name string) {
		if name != "." && !made[name] {
			directory(filepath.Dir(name))
			made[name] = true
			cpio(&b, name, 0o040755, nil)
		}
	}
	for _, name := range []string{"dev", "proc", "sys", "tmp"} {
		directory(name)
	}
	for _, name := range names {
		data, err := os.ReadFile(files[name])
		if err != nil {
			return nil, err
		}
		directory(filepath.Dir(name))
		cpio(&b, name, 0o100755, data)
	}
	cpio(&b, "bin/sh", 0o120777, []byte("busybox"))
	cpio(&b, "init", 0o100755, []byte(guestInit))
	cpio(&b, "TRAILER!!!", 0, nil)
	return b.Bytes(), nil
}

// cpio appends a file in the format that the kernel reads (Documentation/driver-api/early-userspace/buffer-format.rst).
func cpio(b *bytes.Buffer, name string, mode int, data []byte) {
	pad := func() { b.Write(make([]byte, -b.Len()&3)) }
	b.WriteString("070701")
	// Inode, mode, uid, gid, links, time, size, device and special device, the length of the name, checksum.
	for _, field := range []int{b.Len(), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0} {
		fmt.Fprintf(b, "%08x", field)
	}
	b.WriteString(name + "\x00")
	pad()
	b.Write(data)
	pad()
}

// kernelModules returns the files of modules, each after those that it needs.
func kernelModules(names ...string) (files []string, err error) {
	byName := make(map[string]string)
	plain := func(name string) string { return strings.ReplaceAll(name, "-", "_") }
	err = filepath.WalkDir(filepath.Join(kernelDir, "lib"), func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			byName[plain(name)] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var add func(name string) error
	add = func(name string) error {
		path, ok := byName[plain(name)]
		if !ok {
			return fmt.Errorf("%s has no module %s", kernelDir, name)
		}
		if slices.Contains(files, path) {
			return nil
		}
		module, err := elf.Open(path)
		if err != nil {
			return fmt.Errorf("module %s: %w", path, err)
		}
		defer module.Close()
		section := module.Section(".modinfo")
		if section == nil {
			return fmt.Errorf("module %s has no .modinfo", path)
		}
		info, err := section.Data()
		if err != nil {
			return fmt.Errorf("module %s: %w", path, err)
		}
		for line := range strings.SplitSeq(string(info), "\x00") {
			needs, ok := strings.CutPrefix(line, "depends=")
			if !ok || needs == "" {
				continue
			}
			for need := range strings.SplitSeq(needs, ",") {
				if err := add(need); err != nil {
					return err
				}
			}
		}
		files = append(files, path)
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// wice-go and the WireGuard of Linux take each other for one of their own.
func TestInteropKernel(t *testing.T) {
	natlab.Need(t)
	for _, tool := range []string{"qemu-system-x86_64", "busybox"} {
		needTool(t, tool)
	}
	w := newWorld(t, natlab.Config{Family: natlab.DualStack})
	na, nb := w.node(w.lab.A[0]), w.node(w.lab.B[0])
	var family natlab.Family
	a, b := na.end(dropIn, &family), w.newGuest(nb.host).end(nb.addr, &family)
	b.echo(7)
	for _, family = range []natlab.Family{natlab.IPv4, natlab.IPv6} {
		interop(w, na, a, b, family == natlab.IPv6)
	}
}
