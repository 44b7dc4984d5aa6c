package tun

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"github.com/wice-go/wice-go/tun/offload"
)

const mirrorOffset = 16

// mirror sends every packet of the device back with its addresses swapped, which changes no checksum: what the kernel sends to the
// neighbour 2 comes back to itself, 1, from there. It returns the number of packets seen.
func mirror(t *testing.T, dev wgtun.Device) *atomic.Int64 {
	packets := new(atomic.Int64)
	var ended sync.WaitGroup
	ended.Go(func() {
		bufs, sizes := make([][]byte, dev.BatchSize()), make([]int, dev.BatchSize())
		for i := range bufs {
			bufs[i] = make([]byte, 1<<16)
		}
		out := make([][]byte, 0, len(bufs))
		for {
			n, err := dev.Read(bufs, sizes, mirrorOffset)
			out = out[:0]
			for i := range n {
				b := bufs[i][mirrorOffset:][:sizes[i]]
				swap := b[12:20]
				if b[0]>>4 == 6 {
					swap = b[8:40]
				}
				half := len(swap) / 2
				copy(swap, append(bytes.Clone(swap[half:]), swap[:half]...))
				out = append(out, bufs[i][:mirrorOffset+sizes[i]])
			}
			packets.Add(int64(n))
			if _, err := dev.Write(out, mirrorOffset); err != nil && !errors.Is(err, os.ErrClosed) {
				t.Errorf("write: %v", err)
			}
			if err != nil {
				if !errors.Is(err, os.ErrClosed) {
					t.Errorf("read: %v", err)
				}
				return
			}
		}
	})
	t.Cleanup(func() {
		dev.Close()
		ended.Wait()
	})
	return packets
}

// openMirror opens a device in a namespace of the test, with addresses 1 whose neighbours 2 are their mirrors.
func openMirror(t *testing.T) (local, remote [2]netip.Addr, packets *atomic.Int64) {
	newNamespace(t)
	dev := openDevice(t, "wgt0")
	shell(t, `ip addr add 10.1.0.1/24 dev wgt0; ip addr add fd00:1::1/64 dev wgt0 nodad; ip link set wgt0 up`)
	if err := awaitReady(); err != nil {
		t.Fatal(err)
	}
	packets = mirror(t, dev)
	return [2]netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00:1::1")},
		[2]netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd00:1::2")}, packets
}

// framesReceived is how often the kernel was handed something by the device.
func framesReceived(t *testing.T) int64 {
	t.Helper()
	n, err := strconv.ParseInt(strings.TrimSpace(shell(t, "cat /proc/thread-self/net/dev | sed -n 's/^ *wgt0: *[0-9]* *\\([0-9]*\\) .*/\\1/p'")), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The kernel's TCP is carried whole in both directions, in frames of many packets each.
func TestDeviceCarriesTCP(t *testing.T) {
	local, remote, packets := openMirror(t)
	data := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	for i := range local {
		seen, frames := packets.Load(), framesReceived(t)
		l, err := net.Listen("tcp", netip.AddrPortFrom(local[i], 0).String())
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).AddrPort().Port()
		out, err := net.DialTimeout("tcp", netip.AddrPortFrom(remote[i], port).String(), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		in, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		go func() {
			out.Write(data)
			out.Close()
		}()
		got, err := io.ReadAll(in)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%s: got %d bytes of %d, equal %t, %v", local[i], len(got), len(data), bytes.Equal(got, data), err)
		}
		seen, frames = packets.Load()-seen, framesReceived(t)-frames
		if least := int64(len(data) / DefaultMTU); seen < least || frames*3 > seen {
			t.Errorf("%s: %d packets, at least %d wanted, in %d frames", local[i], seen, least, frames)
		}
	}
}

// Datagrams that a program hands over in one piece (UDP_SEGMENT) arrive each by itself and in order, with the kernel's checks passed.
func TestDeviceCarriesUDP(t *testing.T) {
	local, remote, packets := openMirror(t)
	for i := range local {
		in, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local[i], 0)))
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		in.SetReadBuffer(4 << 20)
		port := in.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		out, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(remote[i], port)))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		raw, err := out.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		const size, count, last = 1000, 40, 300
		raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) })
		if err != nil {
			t.Skipf("this kernel cuts no datagrams: %v", err)
		}
		seen := packets.Load()
		big := make([]byte, (count-1)*size+last)
		for k := range count {
			big[k*size] = byte(k)
		}
		if _, err := out.Write(big); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2*size)
		for k := range count {
			in.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, err := in.Read(buf)
			want := size
			if k == count-1 {
				want = last
			}
			if err != nil || n != want || buf[0] != byte(k) {
				t.Fatalf("%s: datagram %d: got %d bytes, number %d, %v", local[i], k, n, buf[0], err)
			}
		}
		if seen = packets.Load() - seen; seen < count {
			t.Errorf("%s: %d packets, want %d", local[i], seen, count)
		}
	}
}

// A device whose interface is deleted says so, whether or not somebody waits for it.
func TestDeviceDeleted(t *testing.T) {
	newNamespace(t)
	dev := openDevice(t, "wgt0")
	shell(t, "ip link set wgt0 up")
	ended := make(chan error)
	go func() {
		bufs := [][]byte{make([]byte, 1<<16)}
		for {
			if _, err := dev.Read(bufs, []int{0}, mirrorOffset); err != nil {
				ended <- err
				return
			}
		}
	}()
	shell(t, "ip link del wgt0")
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("read: got %v, want os.ErrClosed", err)
	}
	packet := append(make([]byte, mirrorOffset), 0x45)
	if _, err := dev.Write([][]byte{append(packet, make([]byte, 40)...)}, mirrorOffset); !errors.Is(err, os.ErrClosed) {
		t.Errorf("write: got %v, want os.ErrClosed", err)
	}
}

// datagram is a UDP packet of one byte from 10.1.0.2 to a port of 10.1.0.1.
func datagram(port int) []byte {
	b := []byte{0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 2, 10, 1, 0, 1, 0, 9, byte(port >> 8), byte(port), 0, 9, 0, 0, 'x'}
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	sum = sum>>16 + sum&0xffff
	b[10], b[11] = byte(^sum>>8), byte(^sum)
	return b
}

// What the kernel refuses is an error of its own packet alone.
func TestDeviceRefusesOnePacket(t *testing.T) {
	newNamespace(t)
	dev := openDevice(t, "wgt0")
	shell(t, "ip addr add 10.1.0.1/24 dev wgt0; ip link set wgt0 up")
	in, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 1, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	port := in.LocalAddr().(*net.UDPAddr).Port
	good := append(make([]byte, mirrorOffset), datagram(port)...)
	bad := append(make([]byte, mirrorOffset), 0x00)
	if _, err := dev.Write([][]byte{bad, good}, mirrorOffset); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("got %v, want EINVAL", err)
	}
	in.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := in.Read(make([]byte, 10)); n != 1 || err != nil {
		t.Errorf("the packet behind it: got %d bytes, %v", n, err)
	}
}

// A frame that makes no sense costs nothing but itself.
func TestDeviceDropsFrame(t *testing.T) {
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	defer in.Close()
	d, err := newDevice(&fixedLink{file: out}, new(tunPort), true)
	if err != nil {
		t.Fatal(err)
	}
	bufs, sizes := [][]byte{make([]byte, 2000)}, []int{0}
	good := make([]byte, offload.HeaderSize+20)
	good[offload.HeaderSize] = 0x45
	bad := bytes.Clone(good)
	bad[1] = 77 // a kind of segmentation that nobody asked for
	if _, err := in.Write(bad); err != nil {
		t.Fatal(err)
	}
	if n, err := d.Read(bufs, sizes, mirrorOffset); n != 0 || !errors.Is(err, wgtun.ErrTooManySegments) || !errors.Is(err, offload.ErrFrame) {
		t.Errorf("got %d packets, %v", n, err)
	}
	if _, err := in.Write(good); err != nil {
		t.Fatal(err)
	}
	if n, err := d.Read(bufs, sizes, mirrorOffset); n != 1 || err != nil || sizes[0] != 20 {
		t.Errorf("behind it: got %d packets, %v", n, err)
	}
}
