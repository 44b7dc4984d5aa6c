package tun

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"

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
						transferTCP(t, spaces[from], spaces[to], address, 8<<20)
						transferUDP(t, spaces[from], spaces[to], address)
					}
				}
			})
		}
	}
}

// transferTCP sends bytes to an address of the other namespace, and checks that they arrive.
func transferTCP(t testing.TB, from, to *space, address netip.Addr, size int) {
	t.Helper()
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(data)
	var l net.Listener
	to.do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(address, 0).String())
		return err
	})
	defer l.Close()
	var out net.Conn
	from.do(func() (err error) {
		out, err = net.DialTimeout("tcp", l.Addr().String(), 10*time.Second)
		return err
	})
	defer out.Close()
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
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
	if _, err := out.Write(data); err != nil {
		t.Fatal(err)
	}
	for rest := data; len(rest) > 0; rest = rest[min(segment, len(rest)):] {
		receive(rest[:min(segment, len(rest))])
	}
}
