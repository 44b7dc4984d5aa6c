package tun

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

// space is a network namespace of its own, empty but for lo. It ends with the test.
type space struct {
	t     testing.TB
	calls chan func()
}

func newSpace(t testing.TB) *space {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, for a network namespace")
	}
	s := &space{t: t, calls: make(chan func())}
	made := make(chan error)
	var ended sync.WaitGroup
	ended.Go(func() {
		runtime.LockOSThread() // and never unlocked, so that the thread ends too
		err := unix.Unshare(unix.CLONE_NEWNET)
		made <- err
		if err != nil {
			return
		}
		for f := range s.calls {
			f()
		}
	})
	if err := <-made; err != nil {
		t.Fatalf("unshare: %v", err)
	}
	t.Cleanup(func() {
		close(s.calls)
		ended.Wait()
	})
	return s
}

// do calls f in the namespace.
func (s *space) do(f func() error) {
	s.t.Helper()
	result := make(chan error)
	s.calls <- func() { result <- f() }
	if err := <-result; err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) shell(script string) {
	s.t.Helper()
	s.do(func() error {
		if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", script, err, out)
		}
		return nil
	})
}

// fileKinds are the ways in which OpenFile makes an interface.
var fileKinds = []struct {
	name string
	open func(name string, mtu int) (int, error)
}{{"TUN", openFD}, {"packet", openPair}}

// fileDevice makes a file in the namespace, and the device outside of it.
func (s *space) fileDevice(open func(string, int) (int, error), mtu int) *kernelDevice {
	s.t.Helper()
	var file *os.File
	s.do(func() error {
		fd, err := open("wgt0", mtu)
		if err == nil {
			file = os.NewFile(uintptr(fd), "wgt0")
		}
		return err
	})
	dev, err := FromFile(file, mtu)
	if err != nil {
		file.Close()
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { dev.Close() })
	return dev.(*kernelDevice)
}

// configure gives the interface the addresses of number n, and brings it up.
func (s *space) configure(n int) {
	s.shell(fmt.Sprintf("ip addr add 10.1.0.%d/24 dev wgt0; ip addr add fd00:1::%d/64 dev wgt0; ip link set wgt0 up", n, n))
	s.do(awaitReady)
}

// framesReceived is how often the kernel was handed something by the device.
func (s *space) framesReceived() (n int64) {
	s.t.Helper()
	s.do(func() error {
		link, err := netlink.LinkByName("wgt0")
		if err == nil {
			n = int64(link.Attrs().Statistics.RxPackets)
		}
		return err
	})
	return n
}

// carry writes to one device what it reads from the other, until one is closed.
func carry(t testing.TB, from, to wgtun.Device) {
	bufs, sizes, out := make([][]byte, from.BatchSize()), make([]int, from.BatchSize()), make([][]byte, 0, from.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, 2048)
	}
	for {
		n, err := from.Read(bufs, sizes, mirrorOffset)
		out = out[:0]
		for i := range n {
			out = append(out, bufs[i][:mirrorOffset+sizes[i]])
		}
		if _, err := to.Write(out, mirrorOffset); err != nil && !errors.Is(err, os.ErrClosed) && !errors.Is(err, unix.EIO) { // EIO: it is down
			t.Errorf("write: %v", err)
		}
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("read: %v", err)
			}
			return
		}
	}
}

// connect joins the devices of two namespaces, which are 1 and 2.
func connect(t testing.TB, open func(string, int) (int, error), mtu int) (spaces [2]*space) {
	t.Helper()
	var devices [2]*kernelDevice
	for i := range spaces {
		spaces[i] = newSpace(t)
		devices[i] = spaces[i].fileDevice(open, mtu)
	}
	for i := range spaces {
		spaces[i].configure(i + 1)
	}
	var carrying sync.WaitGroup
	carrying.Go(func() { carry(t, devices[0], devices[1]) })
	carrying.Go(func() { carry(t, devices[1], devices[0]) })
	t.Cleanup(func() {
		devices[0].Close()
		devices[1].Close()
		carrying.Wait()
	})
	return spaces
}

// The kernels of two namespaces speak over their devices, in either direction and family.
func TestFileDeviceCarries(t *testing.T) {
	for _, kind := range fileKinds {
		for _, mtu := range []int{1280, 1420} {
			t.Run(fmt.Sprintf("%s/%d", kind.name, mtu), func(t *testing.T) {
				spaces := connect(t, kind.open, mtu)
				for _, prefix := range []string{"10.1.0.", "fd00:1::"} {
					for from := range spaces {
						to := 1 - from
						address := netip.MustParseAddr(fmt.Sprintf("%s%d", prefix, to+1))
						const size = 8 << 20
						frames := spaces[to].framesReceived()
						transferTCP(t, spaces[from], spaces[to], address, size)
						if frames = spaces[to].framesReceived() - frames; frames > size/int64(mtu)/3 {
							t.Errorf("%s: %d bytes in %d frames", address, size, frames)
						}
						transferUDP(t, spaces[from], spaces[to], address)
					}
				}
			})
		}
	}
}

// dialTCP makes a connection to an address of the other namespace.
func dialTCP(t testing.TB, from, to *space, address netip.Addr) (out, in net.Conn) {
	t.Helper()
	var l net.Listener
	to.do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(address, 0).String())
		return err
	})
	defer l.Close()
	from.do(func() (err error) {
		out, err = net.DialTimeout("tcp", l.Addr().String(), 10*time.Second)
		return err
	})
	t.Cleanup(func() { out.Close() })
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	return out, in
}

// transferTCP sends bytes to an address of the other namespace, and checks that they arrive.
func transferTCP(t testing.TB, from, to *space, address netip.Addr, size int) {
	t.Helper()
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(data)
	out, in := dialTCP(t, from, to, address)
	var sending sync.WaitGroup
	sending.Go(func() {
		out.Write(data)
		out.Close()
	})
	defer sending.Wait()
	in.SetReadDeadline(time.Now().Add(time.Minute))
	got, err := io.ReadAll(in)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%s: got %d bytes of %d, equal %t, %v", address, len(got), len(data), bytes.Equal(got, data), err)
	}
}

// transferUDP sends datagrams one by one and cut by the kernel (UDP_SEGMENT), whole and in fragments, and checks that each arrives.
func transferUDP(t testing.TB, from, to *space, address netip.Addr) {
	t.Helper()
	var in, out *net.UDPConn
	to.do(func() (err error) {
		in, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 0)))
		return err
	})
	defer in.Close()
	from.do(func() (err error) {
		out, err = net.DialUDP("udp", nil, in.LocalAddr().(*net.UDPAddr))
		return err
	})
	defer out.Close()
	data := make([]byte, 30000)
	rand.NewChaCha8([32]byte{1}).Read(data)
	got := make([]byte, 1<<16)
	receive := func(want []byte) {
		t.Helper()
		in.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := in.Read(got); err != nil || !bytes.Equal(got[:n], want) {
			t.Fatalf("%s: got %d bytes of %d, equal %t, %v", address, n, len(want), bytes.Equal(got[:n], want), err)
		}
	}
	for _, size := range []int{0, 1, 2, 999, 1232, 5000, len(data)} {
		if _, err := out.Write(data[:size]); err != nil {
			t.Fatal(err)
		}
		receive(data[:size])
	}
	raw, err := out.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	const segment = 1100
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, segment) })
	if err != nil {
		t.Skipf("this kernel cuts no datagrams: %v", err)
	}
	frames := to.framesReceived()
	if _, err := out.Write(data); err != nil {
		t.Fatal(err)
	}
	for rest := data; len(rest) > 0; rest = rest[min(segment, len(rest)):] {
		receive(rest[:min(segment, len(rest))])
	}
	if frames = to.framesReceived() - frames; frames > 10 && segmentsUDP() {
		t.Errorf("%s: %d bytes of datagrams in %d frames", address, len(data), frames)
	}
}

// Only what a virtio-net header can tell of is left to the interface of a pair.
func TestPairOffloads(t *testing.T) {
	s := newSpace(t)
	dev := s.fileDevice(openPair, DefaultMTU)
	raw, err := dev.File().SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	const blocks = 4
	features := make([]byte, 8+blocks*16)
	binary.NativeEndian.PutUint32(features, unix.ETHTOOL_GFEATURES)
	binary.NativeEndian.PutUint32(features[4:], blocks)
	var names []string
	cerr := raw.Control(func(fd uintptr) {
		if names, err = featureNames(int(fd), "wgt0"); err == nil {
			err = ethtool(int(fd), "wgt0", features)
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		t.Fatal(err)
	}
	has := make(map[string]bool)
	for i, name := range names {
		if active := binary.NativeEndian.Uint32(features[8+i/32*16+8:]); active&(1<<(i%32)) != 0 && strings.HasPrefix(name, "tx-") {
			has[name] = true
		}
	}
	delete(has, "tx-lockless") // no offload
	want := maps.Clone(keptOffloads)
	if segmentsUDP() {
		want["tx-udp-segmentation"] = true
	}
	if !maps.Equal(has, want) {
		t.Errorf("got %v, want %v", has, want)
	}
}

// A file that OpenFile has not made is refused, and left as it is.
func TestFromFileRefuses(t *testing.T) {
	s := newSpace(t)
	tap := func(flags uint16) func() (int, error) {
		return func() (int, error) {
			fd, err := unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil || flags == 0 {
				return fd, err
			}
			request, _ := unix.NewIfreq("wgt%d")
			request.SetUint16(flags)
			return fd, unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
	}
	socket := func(family, kind int) func() (int, error) {
		return func() (int, error) { return unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0) }
	}
	for name, open := range map[string]func() (int, error){
		"directory":               func() (int, error) { return unix.Open("/", unix.O_RDONLY|unix.O_CLOEXEC, 0) },
		"null device":             func() (int, error) { return unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0) },
		"event":                   func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC) },
		"path":                    func() (int, error) { return unix.Open(clonePath, unix.O_PATH|unix.O_CLOEXEC, 0) },
		"TUN without interface":   tap(0),
		"TUN without header":      tap(unix.IFF_TUN | unix.IFF_NO_PI),
		"TAP":                     tap(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR),
		"UDP":                     socket(unix.AF_INET, unix.SOCK_DGRAM),
		"Unix":                    socket(unix.AF_UNIX, unix.SOCK_STREAM),
		"packets without headers": socket(unix.AF_PACKET, unix.SOCK_DGRAM),
		"packets of anything":     socket(unix.AF_PACKET, unix.SOCK_RAW),
		"packets of lo": func() (int, error) {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return -1, err
			}
			return fd, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: 1})
		},
	} {
		fd := -1
		s.do(func() (err error) {
			fd, err = open()
			return err
		})
		file := os.NewFile(uintptr(fd), name)
		if dev, err := FromFile(file, DefaultMTU); err == nil {
			t.Errorf("%s was taken for an interface", name)
			dev.Close()
		} else {
			t.Log(err)
		}
		if err := file.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	file, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	if _, err := FromFile(file, DefaultMTU); err == nil {
		t.Error("a closed file was taken for an interface")
	}
}

// A process can have the file after another one. Two at once can't share a ring.
func TestFromFileAgain(t *testing.T) {
	forKinds(t, func(t *testing.T, open func(string, int) (int, error)) {
		_, first, out := quietDevice(t, open)
		file, err := duplicate(first.raw, "copy")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if first.link.(*fixedLink).release != nil {
			if _, err := FromFile(file, DefaultMTU); !errors.Is(err, unix.EBUSY) {
				t.Errorf("a second device: got %v, want EBUSY", err)
			}
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		second, err := FromFile(file, DefaultMTU)
		if err != nil {
			t.Fatal(err)
		}
		defer second.Close()
		if _, err := out.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		bufs, sizes := room(1)
		if n, err := second.Read(bufs, sizes, mirrorOffset); n != 1 || err != nil || string(payloadOf(bufs[0], sizes[0])) != "x" {
			t.Errorf("got %d packets, %v", n, err)
		}
	})
}
