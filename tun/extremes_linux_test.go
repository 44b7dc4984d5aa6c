package tun

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"github.com/wice-go/wice-go/tun/offload"
)

// openRaw opens a device that carries the longest packets, with nothing on it but what the test sends.
func openRaw(t *testing.T) wgtun.Device {
	t.Helper()
	newNamespace(t)
	dev := openDevice(t, "wgt0")
	shell(t, `ip link set wgt0 addrgenmode none mtu 65535
		ip addr add 10.1.0.1/24 dev wgt0; ip addr add fd00:1::1/64 dev wgt0 nodad; ip link set wgt0 up`)
	if err := awaitReady(); err != nil {
		t.Fatal(err)
	}
	return dev
}

// swapAddresses makes a packet one of the other direction. It changes no checksum.
func swapAddresses(p []byte) {
	a := p[12:20]
	if p[0]>>4 == 6 {
		a = p[8:40]
	}
	half := len(a) / 2
	copy(a, append(bytes.Clone(a[half:]), a[:half]...))
}

// The longest packet that IP has goes out and comes back; where there is less room for it, it is lost, and what is behind it is not.
func TestDeviceLongestPacket(t *testing.T) {
	dev := openRaw(t)
	const longest = 1<<16 - 1
	big, small := [][]byte{make([]byte, mirrorOffset+longest)}, [][]byte{make([]byte, mirrorOffset+longest-1)}
	for _, c := range []struct {
		local, remote string
		headers       int
	}{{"10.1.0.1", "10.1.0.2", 20 + 8}, {"fd00:1::1", "fd00:1::2", 40 + 8}} {
		in, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(c.local), 0)))
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if err := errors.Join(in.SetReadBuffer(1<<20), in.SetWriteBuffer(1<<20)); err != nil {
			t.Fatal(err)
		}
		to := netip.AddrPortFrom(netip.MustParseAddr(c.remote), in.LocalAddr().(*net.UDPAddr).AddrPort().Port())
		payload := make([]byte, longest-c.headers)
		rand.NewChaCha8([32]byte{1}).Read(payload)
		send := func(p []byte) {
			t.Helper()
			if _, err := in.WriteToUDPAddrPort(p, to); err != nil {
				t.Fatalf("%s: %v", to, err)
			}
		}
		sizes := []int{0}

		send(payload)
		if n, err := dev.Read(big, sizes, mirrorOffset); n != 1 || err != nil || sizes[0] != longest {
			t.Fatalf("%s: got %d packets, the first of %d bytes, %v", to, n, sizes[0], err)
		}
		swapAddresses(big[0][mirrorOffset:])
		if n, err := dev.Write(big, mirrorOffset); n != 1 || err != nil {
			t.Fatalf("%s: %d written, %v", to, n, err)
		}
		in.SetReadDeadline(time.Now().Add(10 * time.Second))
		got := make([]byte, longest)
		if n, err := in.Read(got); err != nil || !bytes.Equal(got[:n], payload) {
			t.Errorf("%s: got %d bytes of %d, equal %t, %v", to, n, len(payload), bytes.Equal(got[:n], payload), err)
		}

		send(payload)
		if n, err := dev.Read(small, sizes, mirrorOffset); n != 0 || !errors.Is(err, wgtun.ErrTooManySegments) {
			t.Errorf("%s: without room: got %d packets, %v", to, n, err)
		}
		send([]byte("x"))
		if n, err := dev.Read(small, sizes, mirrorOffset); n != 1 || err != nil || sizes[0] != c.headers+1 {
			t.Errorf("%s: behind it: got %d packets, the first of %d bytes, %v", to, n, sizes[0], err)
		}
	}
}

// A packet of one byte is no packet, but costs no other one: among those written, and among those that the kernel hands over, as it does
// with what a program sends past IP.
func TestDeviceShortestPacket(t *testing.T) {
	dev := openRaw(t)
	in, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 1, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	room := func(p ...byte) []byte { return append(make([]byte, mirrorOffset), p...) }
	port := in.LocalAddr().(*net.UDPAddr).Port
	good := func() []byte { return room(datagram(port)...) }
	before := framesReceived(t)
	if n, err := dev.Write([][]byte{good(), room(0x45), good(), room(0x60), good()}, mirrorOffset); n != 5 || err != nil {
		t.Errorf("%d written, %v", n, err)
	}
	if got := framesReceived(t) - before; got != 5 {
		t.Errorf("the kernel has got %d frames, want 5", got)
	}
	in.SetReadDeadline(time.Now().Add(10 * time.Second))
	for i := range 3 {
		if n, err := in.Read(make([]byte, 10)); n != 1 || err != nil {
			t.Fatalf("packet %d: got %d bytes, %v", i, n, err)
		}
	}

	link, err := net.InterfaceByName("wgt0")
	if err != nil {
		t.Fatal(err)
	}
	past, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(past)
	to := &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{unix.ETH_P_IP >> 8, unix.ETH_P_IP & 0xff}), Ifindex: link.Index}
	bufs, sizes := [][]byte{make([]byte, 2048), make([]byte, 2048)}, make([]int, 2)
	for _, short := range []byte{0x45, 0x60, 0} {
		if err := unix.Sendto(past, []byte{short}, 0, to); err != nil {
			t.Fatal(err)
		}
		if _, err := in.WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort("10.1.0.2:9")); err != nil {
			t.Fatal(err)
		}
		if n, err := dev.Read(bufs, sizes, mirrorOffset); n != 0 || !errors.Is(err, wgtun.ErrTooManySegments) || !errors.Is(err, offload.ErrFrame) {
			t.Errorf("%#x: got %d packets, %v", short, n, err)
		}
		if n, err := dev.Read(bufs, sizes, mirrorOffset); n != 1 || err != nil || sizes[0] != 29 {
			t.Errorf("behind %#x: got %d packets, the first of %d bytes, %v", short, n, sizes[0], err)
		}
	}
}
