package tun

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// quietDevice is a device of a file in a namespace that sends nothing by itself, and a socket there that sends to its neighbour 10.1.0.2.
func quietDevice(t testing.TB, open func(string, int) (int, error)) (s *space, dev *kernelDevice, out *net.UDPConn) {
	t.Helper()
	s = newSpace(t)
	dev = s.fileDevice(open, DefaultMTU)
	s.shell("ip link set wgt0 addrgenmode none; ip addr add 10.1.0.1/24 dev wgt0; ip link set wgt0 up")
	s.do(func() (err error) {
		out, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.1.0.2:9")))
		return err
	})
	t.Cleanup(func() { out.Close() })
	return s, dev, out
}

// forKinds runs a test with each kind of file.
func forKinds(t *testing.T, f func(*testing.T, func(string, int) (int, error))) {
	for _, kind := range fileKinds {
		t.Run(kind.name, func(t *testing.T) { f(t, kind.open) })
	}
}

func room(n int) ([][]byte, []int) {
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16)
	}
	return bufs, make([]int, n)
}

// payloadOf returns the payload of an IPv4 datagram.
func payloadOf(buf []byte, size int) []byte { return buf[mirrorOffset:][:size][28:] }

// What a device says of itself that has no way to look the interface up.
func TestFileDeviceTells(t *testing.T) {
	forKinds(t, func(t *testing.T, open func(string, int) (int, error)) {
		_, dev, _ := quietDevice(t, open)
		if name, err := dev.Name(); name != "wgt0" || err != nil {
			t.Errorf("name: got %q, %v", name, err)
		}
		if mtu, err := dev.MTU(); mtu != DefaultMTU || err != nil {
			t.Errorf("MTU: got %d, %v", mtu, err)
		}
		if err := errors.Join(dev.Close(), dev.Close()); err != nil {
			t.Errorf("close: %v", err)
		}
		events := 0
		for range dev.Events() {
			events++
		}
		if events != 1 {
			t.Errorf("got %d events, want one", events)
		}
		bufs, sizes := room(1)
		if n, err := dev.Read(bufs, sizes, mirrorOffset); n != 0 || !errors.Is(err, os.ErrClosed) {
			t.Errorf("read: got %d, %v", n, err)
		}
		if n, err := dev.Write([][]byte{append(make([]byte, mirrorOffset), datagram(9)...)}, mirrorOffset); n != 0 || !errors.Is(err, os.ErrClosed) {
			t.Errorf("write: got %d, %v", n, err)
		}
		dev.Interrupt()
	})
}

// A Read that waits ends when the device is closed, its interface is deleted, or the other end of it set down; so do Writes.
func TestFileDeviceEnds(t *testing.T) {
	for how, end := range map[string]func(*space, *kernelDevice){
		"closed":  func(_ *space, dev *kernelDevice) { dev.Close() },
		"deleted": func(s *space, _ *kernelDevice) { s.shell("ip link del wgt0") },
		"down":    func(s *space, _ *kernelDevice) { s.shell("ip link set wgt0~ down || ip link del wgt0") }, // a TUN device has no other end
	} {
		forKinds(t, func(t *testing.T, open func(string, int) (int, error)) {
			s, dev, _ := quietDevice(t, open)
			bufs, sizes := room(1)
			reading, ended := make(chan struct{}), make(chan error)
			go func() {
				close(reading)
				_, err := dev.Read(bufs, sizes, mirrorOffset)
				ended <- err
			}()
			<-reading
			end(s, dev)
			if err := <-ended; !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s: read: got %v, want os.ErrClosed", how, err)
			}
			if _, err := dev.Read(bufs, sizes, mirrorOffset); !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s: read again: got %v, want os.ErrClosed", how, err)
			}
			if _, err := dev.Write([][]byte{append(make([]byte, mirrorOffset), datagram(9)...)}, mirrorOffset); !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s: write: got %v, want os.ErrClosed", how, err)
			}
		})
	}
}

// The kernel tells of a deletion once. When it is a Write that it tells, a Read learns of it all the same.
func TestFileDeviceEndsByWrite(t *testing.T) {
	forKinds(t, func(t *testing.T, open func(string, int) (int, error)) {
		s, dev, _ := quietDevice(t, open)
		s.shell("ip link del wgt0")
		if _, err := dev.Write([][]byte{append(make([]byte, mirrorOffset), datagram(9)...)}, mirrorOffset); !errors.Is(err, os.ErrClosed) {
			t.Errorf("write: got %v, want os.ErrClosed", err)
		}
		bufs, sizes := room(1)
		if _, err := dev.Read(bufs, sizes, mirrorOffset); !errors.Is(err, os.ErrClosed) {
			t.Errorf("read: got %v, want os.ErrClosed", err)
		}
	})
}

// An interface that is set down and up again goes on.
func TestFileDeviceDownAndUp(t *testing.T) {
	forKinds(t, func(t *testing.T, open func(string, int) (int, error)) {
		s, dev, out := quietDevice(t, open)
		s.shell("ip link set wgt0 down; ip link set wgt0 up")
		if _, err := out.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		bufs, sizes := room(1)
		if n, err := dev.Read(bufs, sizes, mirrorOffset); n != 1 || err != nil || string(payloadOf(bufs[0], sizes[0])) != "x" {
			t.Errorf("got %d packets, %v", n, err)
		}
	})
}

// While nobody reads, the ring fills up, and what has found no place is lost. Reading goes on, around the ring.
func TestFileDeviceOverflows(t *testing.T) {
	forKinds(t, func(t *testing.T, open func(string, int) (int, error)) {
		_, dev, out := quietDevice(t, open)
		bufs, sizes := room(batchSize)
		const more = 1000
		for round := range 3 {
			for i := range more {
				if _, err := out.Write(binary.BigEndian.AppendUint32(nil, uint32(round*more+i))); err != nil {
					t.Fatal(err)
				}
			}
			dev.Interrupt()
			got := 0
			for {
				n, err := dev.Read(bufs, sizes, mirrorOffset)
				if err != nil {
					t.Fatal(err)
				}
				for i := range n {
					if number := binary.BigEndian.Uint32(payloadOf(bufs[i], sizes[i])); number != uint32(round*more+got) {
						t.Fatalf("round %d: got packet %d, want %d", round, number, round*more+got)
					}
					got++
				}
				if n == 0 {
					break
				}
			}
			if got < slotCount || got >= more {
				t.Errorf("round %d: got %d packets, want at least %d and fewer than %d", round, got, slotCount, more)
			}
		}
	})
}

// What is no IP packet is passed over: ARP, a VLAN's tag, an Ethernet header without type.
func TestFileDeviceSkips(t *testing.T) {
	s, dev, out := quietDevice(t, openPair)
	raw := -1
	at := &unix.SockaddrLinklayer{}
	s.do(func() (err error) {
		link, err := net.InterfaceByName("wgt0")
		if err != nil {
			return err
		}
		at.Ifindex = link.Index
		raw, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	defer unix.Close(raw)
	bufs, sizes := room(batchSize)
	for _, types := range [][]byte{{0x08, 0x06}, {0x81, 0x00, 0, 1, 0x08, 0x00}, {0x88, 0xa8, 0, 1, 0x81, 0, 0, 1, 0x86, 0xdd}, {0, 0}} {
		frame := append(append(append([]byte(nil), outerMAC...), innerMAC...), types...)
		if err := unix.Sendto(raw, append(frame, datagram(9)...), 0, at); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if n, err := dev.Read(bufs, sizes, mirrorOffset); n != 1 || err != nil || string(payloadOf(bufs[0], sizes[0])) != "x" {
			t.Errorf("%x: got %d packets, %v", types, n, err)
		}
	}
}

// The longest packet that IP has goes out and comes back.
func TestFileDeviceLongestPacket(t *testing.T) {
	const longest = 1<<16 - 1
	forKinds(t, func(t *testing.T, open func(string, int) (int, error)) {
		s := newSpace(t)
		dev := s.fileDevice(open, longest)
		s.shell("ip link set wgt0 addrgenmode none")
		s.configure(1)
		bufs, sizes := [][]byte{make([]byte, mirrorOffset+longest)}, []int{0}
		for _, c := range []struct {
			local, remote string
			headers       int
		}{{"10.1.0.1", "10.1.0.2", 20 + 8}, {"fd00:1::1", "fd00:1::2", 40 + 8}} {
			var in *net.UDPConn
			s.do(func() (err error) {
				in, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(c.local), 0)))
				return err
			})
			defer in.Close()
			if err := errors.Join(in.SetReadBuffer(1<<20), in.SetWriteBuffer(1<<20)); err != nil {
				t.Fatal(err)
			}
			payload := make([]byte, longest-c.headers)
			rand.NewChaCha8([32]byte{1}).Read(payload)
			to := netip.AddrPortFrom(netip.MustParseAddr(c.remote), in.LocalAddr().(*net.UDPAddr).AddrPort().Port())
			if _, err := in.WriteToUDPAddrPort(payload, to); err != nil {
				t.Fatal(err)
			}
			for sizes[0] = 0; sizes[0] != longest; { // behind what IPv6 sends for its groups
				if n, err := dev.Read(bufs, sizes, mirrorOffset); n != 1 || err != nil {
					t.Fatalf("%s: got %d packets, the first of %d bytes, %v", to, n, sizes[0], err)
				}
			}
			swapAddresses(bufs[0][mirrorOffset:])
			if n, err := dev.Write(bufs, mirrorOffset); n != 1 || err != nil {
				t.Fatalf("%s: %d written, %v", to, n, err)
			}
			in.SetReadDeadline(time.Now().Add(10 * time.Second))
			got := make([]byte, longest)
			if n, err := in.Read(got); err != nil || !bytes.Equal(got[:n], payload) {
				t.Errorf("%s: got %d bytes of %d, equal %t, %v", to, n, len(payload), bytes.Equal(got[:n], payload), err)
			}
		}
	})
}

// fullPort counts how often there was no room to send.
type fullPort struct {
	port
	full int
}

func (p *fullPort) send(fd uintptr, frames [][]unix.Iovec) (int, unix.Errno) {
	n, errno := p.port.send(fd, frames)
	if errno == unix.EAGAIN {
		p.full++
	}
	return n, errno
}

// A Write waits while the interface takes its time, and ends when the device is closed.
func TestFileDeviceWaitsForRoom(t *testing.T) {
	s, dev, _ := quietDevice(t, openPair)
	full := &fullPort{port: dev.port}
	dev.port = full
	s.shell("tc qdisc add dev wgt0~ root tbf rate 40mbit burst 100kb limit 100mb")
	write := func() error {
		var packets [][]byte
		for range batchSize {
			packets = append(packets, append(append(make([]byte, mirrorOffset), datagram(9)...), make([]byte, 1000)...))
		}
		_, err := dev.Write(packets, mirrorOffset)
		return err
	}
	const batches = 10
	before := s.framesReceived()
	for range batches {
		if err := write(); err != nil {
			t.Fatal(err)
		}
	}
	if full.full == 0 {
		t.Error("there was always room: nothing is tested")
	}
	for s.framesReceived()-before < batches*batchSize && t.Context().Err() == nil {
		runtime.Gosched()
	}

	s.shell("tc qdisc replace dev wgt0~ root tbf rate 1kbit burst 100kb limit 100mb")
	ended := make(chan error)
	go func() {
		for {
			if err := write(); err != nil {
				ended <- err
				return
			}
		}
	}()
	dev.Close()
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("write: got %v, want os.ErrClosed", err)
	}
}

// Neither direction allocates.
func TestFileDeviceNoAllocations(t *testing.T) {
	forKinds(t, func(t *testing.T, open func(string, int) (int, error)) {
		_, dev, out := quietDevice(t, open)
		bufs, sizes := room(batchSize)
		payload := make([]byte, 100)
		if n := testing.AllocsPerRun(100, func() {
			for range 3 {
				out.Write(payload)
			}
			for left := 3; left > 0; {
				n, err := dev.Read(bufs, sizes, mirrorOffset)
				if err != nil {
					t.Fatal(err)
				}
				left -= n
			}
		}); n != 0 {
			t.Errorf("read: %v allocations", n)
		}
		var packets [][]byte
		for range batchSize {
			packets = append(packets, append(make([]byte, mirrorOffset), datagram(9)...))
		}
		if n := testing.AllocsPerRun(100, func() {
			if _, err := dev.Write(packets, mirrorOffset); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("write: %v allocations", n)
		}
	})
}

// forInterruptible runs a test with the devices of files, and that of Open.
func forInterruptible(t *testing.T, f func(*testing.T, *kernelDevice, *net.UDPConn)) {
	forKinds(t, func(t *testing.T, open func(string, int) (int, error)) {
		_, dev, out := quietDevice(t, open)
		f(t, dev, out)
	})
	t.Run("Open", func(t *testing.T) {
		newNamespace(t)
		dev := openDevice(t, "wgt0")
		shell(t, "ip link set wgt0 addrgenmode none; ip addr add 10.1.0.1/24 dev wgt0; ip link set wgt0 up")
		out, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.1.0.2:9")))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		f(t, dev.(*kernelDevice), out)
	})
}

// An Interrupt ends one Read that has nothing to give: the one that waits, or the next.
func TestInterrupt(t *testing.T) {
	forInterruptible(t, func(t *testing.T, dev *kernelDevice, out *net.UDPConn) {
		bufs, sizes := room(batchSize)
		read := func(want int) {
			t.Helper()
			if n, err := dev.Read(bufs, sizes, mirrorOffset); n != want || err != nil {
				t.Fatalf("got %d packets, %v, want %d", n, err, want)
			}
		}
		send := func() {
			t.Helper()
			if _, err := out.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		dev.Interrupt()
		dev.Interrupt()
		read(0)
		send()
		read(1)

		for range 100 { // whether it waits by then or not
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				read(0)
			}()
			dev.Interrupt()
			<-ended
			send()
			read(1)
		}
	})
}

// Whatever comes together, no packet and no Interrupt is lost.
func TestInterruptUnderTraffic(t *testing.T) {
	forInterruptible(t, func(t *testing.T, dev *kernelDevice, out *net.UDPConn) {
		const packets, interrupts, window = 20000, 5000, 50
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var empty atomic.Int64 // Reads that have returned without packets
		returned := make(chan struct{}, 1)
		credit := make(chan struct{}, window) // so that none is lost for lack of room
		var using sync.WaitGroup
		using.Go(func() { // sends
			for i := range packets {
				select {
				case credit <- struct{}{}:
				case <-ctx.Done():
					return
				}
				if _, err := out.Write(binary.BigEndian.AppendUint32(nil, uint32(i))); err != nil {
					t.Error(err)
				}
			}
		})
		var interrupting sync.WaitGroup
		interrupting.Go(func() { // waits for the effect of each
			for i := range interrupts {
				before := empty.Load()
				dev.Interrupt()
				for empty.Load() == before {
					select {
					case <-returned:
					case <-ctx.Done():
						t.Errorf("Interrupt %d had no effect", i)
						return
					}
				}
			}
		})
		interrupting.Go(func() { // and does not
			for range interrupts {
				dev.Interrupt()
			}
		})
		over := make(chan struct{})
		using.Go(func() {
			interrupting.Wait()
			close(over)
			dev.Interrupt() // for the reader to see it
		})
		using.Go(func() {
			<-ctx.Done() // ends a Read that waits for ever
			dev.Close()
		})
		bufs, sizes := room(batchSize)
		got := 0
		for ended := false; got < packets || !ended; {
			n, err := dev.Read(bufs, sizes, mirrorOffset)
			if err != nil {
				t.Errorf("behind %d packets: %v", got, err)
				break
			}
			for i := range n {
				if number := binary.BigEndian.Uint32(payloadOf(bufs[i], sizes[i])); number != uint32(got) {
					t.Errorf("got packet %d, want %d", number, got)
				}
				got++
				<-credit
			}
			if n == 0 {
				empty.Add(1)
				select {
				case returned <- struct{}{}:
				default:
				}
			}
			select {
			case <-over:
				ended = true
			default:
			}
		}
		cancel()
		using.Wait()
		interrupting.Wait()
	})
}

// BenchmarkFileDevice carries TCP between two namespaces, through the devices of both.
func BenchmarkFileDevice(b *testing.B) {
	for _, kind := range fileKinds {
		b.Run(kind.name, func(b *testing.B) {
			spaces := connect(b, kind.open, DefaultMTU)
			out, in := dialTCP(b, spaces[0], spaces[1], netip.MustParseAddr("10.1.0.2"))
			chunk := make([]byte, 1<<20)
			var sending sync.WaitGroup
			sending.Go(func() {
				for {
					if _, err := out.Write(chunk); err != nil {
						return
					}
				}
			})
			got := make([]byte, 1<<20)
			b.SetBytes(int64(len(got)))
			for b.Loop() {
				if _, err := io.ReadFull(in, got); err != nil {
					b.Fatal(err)
				}
			}
			in.Close()
			out.Close()
			sending.Wait()
		})
	}
}
