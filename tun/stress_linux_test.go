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
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

// narrowDevice has less room for a Read than the batch, and counts how often a frame did not fit.
type narrowDevice struct {
	*kernelDevice
	room int
	left atomic.Int64
}

func (d *narrowDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n, err := d.kernelDevice.Read(bufs[:d.room], sizes, offset)
	if d.split.Pending() {
		d.left.Add(1)
	}
	return n, err
}

// What does not fit in one batch comes with the next ones: TCP with tiny segments, of which a frame has hundreds.
func TestDeviceKeepsTheRest(t *testing.T) {
	for _, room := range []int{1, 7, batchSize} {
		t.Run(fmt.Sprint(room), func(t *testing.T) {
			newNamespace(t)
			dev := openDevice(t, "wgt0")
			shell(t, "ip addr add 10.1.0.1/24 dev wgt0; ip link set wgt0 up")
			narrow := &narrowDevice{kernelDevice: dev.(*kernelDevice), room: room}
			packets := mirror(t, narrow)
			data := make([]byte, 1<<20)
			rand.NewChaCha8([32]byte{}).Read(data)
			exchange(t, data)
			left := narrow.left.Load()
			t.Logf("%d packets; %d times a frame did not fit", packets.Load(), left)
			if left == 0 {
				t.Error("every frame has fitted: nothing is tested")
			}
		})
	}
}

// exchange sends data over TCP to the mirror of 10.1.0.1, with the smallest segments there are.
func exchange(t *testing.T, data []byte) {
	t.Helper()
	small := func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 88) })
		return errors.Join(cerr, err)
	}
	lc := net.ListenConfig{Control: small}
	l, err := lc.Listen(t.Context(), "tcp", "10.1.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	d := net.Dialer{Control: small, Timeout: 10 * time.Second}
	out, err := d.DialContext(t.Context(), "tcp", netip.AddrPortFrom(netip.MustParseAddr("10.1.0.2"), port).String())
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		out.Close()
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
	if got, err := io.ReadAll(in); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("got %d bytes of %d, equal %t, %v", len(got), len(data), bytes.Equal(got, data), err)
	}
}

// Closing a device in use ends everybody who reads or writes.
func TestDeviceCloseInUse(t *testing.T) {
	newNamespace(t)
	for round := range 10 {
		dev := openDevice(t, "wgt0")
		shell(t, "ip addr add 10.1.0.1/24 dev wgt0; ip link set wgt0 up")
		out, err := net.Dial("udp4", "10.1.0.2:9")
		if err != nil {
			t.Fatal(err)
		}
		var sending, using sync.WaitGroup
		stop := make(chan struct{})
		sending.Go(func() {
			for payload := make([]byte, 1000); ; {
				select {
				case <-stop:
					return
				default:
					out.Write(payload) // an error once the interface is gone
				}
			}
		})
		read, written := make(chan struct{}, 1), make(chan struct{}, 1)
		using.Go(func() { readUntilClosed(t, dev, read) })
		for range 3 {
			using.Go(func() { writeUntilClosed(t, dev, written) })
		}
		<-read
		<-written
		for range 2 {
			using.Go(func() { dev.Close() })
		}
		using.Wait()
		close(stop)
		sending.Wait()
		out.Close()
		if n, err := dev.Read([][]byte{make([]byte, 1<<16)}, []int{0}, mirrorOffset); n != 0 || !errors.Is(err, os.ErrClosed) {
			t.Errorf("round %d: read from a closed device: %d, %v", round, n, err)
		}
	}
}

func readUntilClosed(t *testing.T, dev wgtun.Device, once chan<- struct{}) {
	bufs, sizes := make([][]byte, dev.BatchSize()), make([]int, dev.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, 2048)
	}
	for {
		_, err := dev.Read(bufs, sizes, mirrorOffset)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("read: %v", err)
			}
			return
		}
		select {
		case once <- struct{}{}:
		default:
		}
	}
}

func writeUntilClosed(t *testing.T, dev wgtun.Device, once chan<- struct{}) {
	var bufs [][]byte
	for range 5 {
		bufs = append(bufs, append(make([]byte, mirrorOffset), datagram(9)...))
	}
	for {
		if n, err := dev.Write(bufs, mirrorOffset); err != nil {
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("write: %v", err)
			}
			return
		} else if n != len(bufs) {
			t.Errorf("%d packets written, want %d", n, len(bufs))
		}
		select {
		case once <- struct{}{}:
		default:
		}
	}
}

// Nothing to write is nothing written, and a packet without a byte is an error of its own.
func TestDeviceWritesNothing(t *testing.T) {
	newNamespace(t)
	dev := openDevice(t, "wgt0")
	shell(t, "ip addr add 10.1.0.1/24 dev wgt0; ip link set wgt0 up")
	before := framesReceived(t)
	for _, bufs := range [][][]byte{nil, {}} {
		if n, err := dev.Write(bufs, mirrorOffset); n != 0 || err != nil {
			t.Errorf("got %d, %v, want nothing", n, err)
		}
	}
	if n, err := dev.Read(nil, nil, mirrorOffset); n != 0 || err != nil {
		t.Errorf("read without room: got %d, %v", n, err)
	}
	if got := framesReceived(t); got != before {
		t.Errorf("the kernel has got %d frames", got-before)
	}
	if _, err := dev.Write([][]byte{make([]byte, mirrorOffset)}, mirrorOffset); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("an empty packet: got %v, want EINVAL", err)
	}
	// All of it has left the device usable.
	if n, err := dev.Write([][]byte{append(make([]byte, mirrorOffset), datagram(9)...)}, mirrorOffset); n != 1 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	if got := framesReceived(t); got != before+1 {
		t.Errorf("the kernel has got %d frames, want 1", got-before)
	}
}
