package netstack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// reading is what one call of Read gave.
type reading struct {
	n   int
	err error
}

// TestDeviceInterrupt checks that an interrupt ends the Read that waits, or else the next one, and only one of them.
func TestDeviceInterrupt(t *testing.T) {
	s, err := New([]netip.Addr{a4}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	device := s.Device().(interface {
		Read(bufs [][]byte, sizes []int, offset int) (int, error)
		Interrupt()
	})
	bufs, sizes := [][]byte{make([]byte, 2000), make([]byte, 2000)}, make([]int, 2)
	read := make(chan reading)
	start := func() {
		go func() {
			n, err := device.Read(bufs, sizes, 0)
			read <- reading{n, err}
		}()
	}
	device.Interrupt()
	device.Interrupt()
	start()
	if got := <-read; got != (reading{}) {
		t.Errorf("interrupted before: got %v, want nothing", got)
	}
	start()
	select {
	case got := <-read:
		t.Errorf("got %v though nobody has interrupted", got)
	default:
	}
	device.Interrupt()
	if got := <-read; got != (reading{}) {
		t.Errorf("interrupted: got %v, want nothing", got)
	}
	// A packet that waits comes first: who interrupts again and again holds none up.
	if err := s.queueDatagram(b4); err != nil {
		t.Fatal(err)
	}
	device.Interrupt()
	start()
	if got := <-read; got != (reading{n: 1}) {
		t.Errorf("interrupted with a packet: got %v, want the packet", got)
	}
	start()
	if err := s.queueDatagram(b4); err != nil {
		t.Fatal(err)
	}
	if got := <-read; got != (reading{n: 1}) {
		t.Errorf("after that: got %v, want another packet", got)
	}
}

// queueDatagram has the stack send one.
func (s *Stack) queueDatagram(to netip.Addr) error {
	c, err := s.DialUDP(netip.AddrPort{}, netip.AddrPortFrom(to, 9))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("x"))
	return err
}

// reader reads a stack's packets as wireguard-go does, and checks each: it must be no longer than the MTU, and its checksums right.
type reader struct {
	t     *testing.T
	s     *Stack
	mtu   int
	bufs  [][]byte
	sizes []int
}

func newReader(t *testing.T, s *Stack, mtu, batch int) *reader {
	r := &reader{t: t, s: s, mtu: mtu, sizes: make([]int, batch)}
	for range batch {
		r.bufs = append(r.bufs, make([]byte, 16+1<<16))
	}
	return r
}

// next returns what one Read gives.
func (r *reader) next() [][]byte {
	r.t.Helper()
	n, err := r.s.device.Read(r.bufs, r.sizes, 16)
	if err != nil {
		return nil
	}
	var packets [][]byte
	for i := range n {
		b := bytes.Clone(r.bufs[i][16:][:r.sizes[i]])
		if len(b) > r.mtu {
			r.t.Errorf("a packet of %d bytes, more than the MTU of %d", len(b), r.mtu)
		}
		if err := checkTCP(b); err != nil {
			r.t.Error(err)
		}
		packets = append(packets, b)
	}
	return packets
}

// checkTCP says what is wrong with the lengths and checksums of a packet.
func checkTCP(b []byte) error {
	var from, to tcpip.Address
	var length int
	var segment header.TCP
	if b[0]>>4 == 4 {
		ip := header.IPv4(b)
		if !ip.IsValid(len(b)) || !ip.IsChecksumValid() || int(ip.TotalLength()) != len(b) {
			return fmt.Errorf("IPv4 header %x of %d bytes", b[:header.IPv4MinimumSize], len(b))
		}
		from, to, length, segment = ip.SourceAddress(), ip.DestinationAddress(), int(ip.PayloadLength()), header.TCP(ip.Payload())
	} else {
		ip := header.IPv6(b)
		if !ip.IsValid(len(b)) || int(ip.PayloadLength())+header.IPv6MinimumSize != len(b) {
			return fmt.Errorf("IPv6 header %x of %d bytes", b[:header.IPv6MinimumSize], len(b))
		}
		from, to, length, segment = ip.SourceAddress(), ip.DestinationAddress(), int(ip.PayloadLength()), header.TCP(ip.Payload())
	}
	at := int(segment.DataOffset())
	if length < at || !segment.IsChecksumValid(from, to, checksum.Checksum(segment[at:], 0), uint16(length-at)) {
		return fmt.Errorf("TCP header %x of a segment of %d bytes: its checksum is wrong", segment[:header.TCPMinimumSize], length)
	}
	return nil
}

// transport returns the TCP segment of a packet.
func transport(b []byte) header.TCP {
	if b[0]>>4 == 4 {
		return header.TCP(header.IPv4(b).Payload())
	}
	return header.TCP(header.IPv6(b).Payload())
}

// TestDeviceSegments sends through two stacks without WireGuard, with MTUs and batches of odd sizes, and checks every packet between them: its length,
// its checksums, and that only the last of what was written in one go is pushed.
func TestDeviceSegments(t *testing.T) {
	for _, c := range []struct {
		server, client netip.Addr
		mtu, batch     int
	}{{b4, a4, 1420, 128}, {b6, a6, 1420, 128}, {b4, a4, 577, 7}, {b6, a6, 1281, 1}, {b4, a4, 65535, 3}} {
		t.Run(fmt.Sprintf("%v/%d/%d", c.server, c.mtu, c.batch), func(t *testing.T) {
			a, b := newStack(t, c.mtu, c.client), newStack(t, c.mtu, c.server)
			var cables sync.WaitGroup
			defer cables.Wait()
			defer b.Close()
			defer a.Close()
			var joins, full, pushed atomic.Int64
			cable := func(from, to *Stack) {
				r := newReader(t, from, c.mtu, c.batch)
				for {
					packets := r.next()
					if packets == nil {
						return
					}
					var bufs [][]byte
					for _, p := range packets {
						if segment := transport(p); len(p) > c.mtu-60 { // there is room for options of TCP
							full.Add(1)
							if segment.Flags()&header.TCPFlagPsh != 0 {
								pushed.Add(1)
							}
						}
						bufs = append(bufs, append(make([]byte, 16), p...))
					}
					if len(bufs) > 1 {
						joins.Add(1)
					}
					if _, err := to.device.Write(bufs, 16); err != nil {
						return
					}
				}
			}
			cables.Go(func() { cable(a, b) })
			cables.Go(func() { cable(b, a) })
			l, err := b.ListenTCP(netip.AddrPortFrom(c.server, 80))
			if err != nil {
				t.Fatal(err)
			}
			data := make([]byte, 1<<20+12345)
			for i := range data {
				data[i] = byte(i ^ i>>8 ^ i>>16)
			}
			received := make(chan error, 1)
			go func() {
				conn, err := l.Accept()
				if err != nil {
					received <- err
					return
				}
				defer conn.Close()
				got, err := io.ReadAll(conn)
				if err == nil && !bytes.Equal(got, data) {
					err = fmt.Errorf("got %d bytes that are not the %d sent", len(got), len(data))
				}
				received <- err
			}()
			conn, err := a.DialContext(testContext(t), "tcp", netip.AddrPortFrom(c.server, 80).String())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(data); err != nil {
				t.Fatal(err)
			}
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			if err := <-received; err != nil {
				t.Fatal(err)
			}
			if c.mtu < 10000 && (full.Load() == 0 || pushed.Load() > full.Load()/2) {
				t.Errorf("of %d full packets %d are pushed: TCP has cut them itself", full.Load(), pushed.Load())
			}
			if c.batch > 1 && c.mtu < 10000 && joins.Load() == 0 {
				t.Error("no batch had more than one packet")
			}
		})
	}
}

// TestDeviceReset checks what a dial answers to an acknowledgement of an older connection with its ports (RFC 5961, section 4): a reset, which gVisor sends
// before it knows the size of segments. Without it the dial is refused for as long as the other end believes in that connection.
func TestDeviceReset(t *testing.T) {
	for _, c := range []struct{ server, client netip.Addr }{{b4, a4}, {b6, a6}} {
		s := newStack(t, 1420, c.client)
		ctx, cancel := context.WithCancel(t.Context())
		var dial sync.WaitGroup
		dial.Go(func() {
			if conn, err := s.DialContext(ctx, "tcp", netip.AddrPortFrom(c.server, 80).String()); err == nil {
				conn.Close()
				t.Errorf("%v: connected to nobody", c.server)
			}
		})
		r := newReader(t, s, 1420, 1)
		syn := r.next()[0]
		if _, err := s.device.Write([][]byte{acknowledgement(syn, 12345)}, 0); err != nil {
			t.Fatal(err)
		}
		segment := transport(syn)
		for segment.Flags() == header.TCPFlagSyn {
			segment = transport(r.next()[0])
		}
		if segment.Flags() != header.TCPFlagRst || segment.SequenceNumber() != 12345 {
			t.Errorf("%v: got flags %v and sequence number %d, want a reset with 12345", c.server, segment.Flags(), segment.SequenceNumber())
		}
		cancel()
		dial.Wait()
	}
}

// acknowledgement makes an answer to a packet of TCP that acknowledges all before a sequence number.
func acknowledgement(packet []byte, number uint32) []byte {
	to := transport(packet)
	segment := header.TCP(make([]byte, header.TCPMinimumSize))
	segment.Encode(&header.TCPFields{
		SrcPort: to.DestinationPort(), DstPort: to.SourcePort(), AckNum: number, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagAck,
	})
	var network []byte
	var ip header.Network
	if packet[0]>>4 == 4 {
		ip4 := header.IPv4(bytes.Clone(packet[:header.IPv4MinimumSize]))
		ip4.SetTotalLength(uint16(len(ip4) + len(segment)))
		network, ip = ip4, ip4
	} else {
		ip6 := header.IPv6(bytes.Clone(packet[:header.IPv6MinimumSize]))
		ip6.SetPayloadLength(uint16(len(segment)))
		network, ip = ip6, ip6
	}
	from, destination := ip.SourceAddress(), ip.DestinationAddress()
	ip.SetSourceAddress(destination)
	ip.SetDestinationAddress(from)
	if ip4, ok := ip.(header.IPv4); ok {
		ip4.SetChecksum(0)
		ip4.SetChecksum(^ip4.CalculateChecksum())
	}
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, destination, from, uint16(len(segment)))
	segment.SetChecksum(^segment.CalculateChecksum(sum))
	return append(network, segment...)
}

// newStack makes one that nobody reads yet.
func newStack(t *testing.T, mtu int, addresses ...netip.Addr) *Stack {
	t.Helper()
	s, err := New(addresses, nil, mtu)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// FuzzDeviceWrite writes what peers may send, as one batch, at any offset.
func FuzzDeviceWrite(f *testing.F) {
	s, err := New([]netip.Addr{a4, a6}, nil, 1420)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	f.Add([]byte{0x45, 0, 0, 20}, uint8(4), uint8(2))
	f.Add(bytes.Repeat([]byte{0x60}, 200), uint8(100), uint8(16))
	f.Fuzz(func(t *testing.T, data []byte, size, offset uint8) {
		var bufs [][]byte
		for len(data) > 0 && len(bufs) < 128 {
			n := min(int(size)+1, len(data))
			bufs = append(bufs, append(make([]byte, offset), data[:n]...))
			data = data[n:]
		}
		if n, err := s.device.Write(bufs, int(offset)); n != len(bufs) || err != nil {
			t.Fatalf("got %d of %d, %v", n, len(bufs), err)
		}
		taken, err := s.link.take(nil, false) // answers
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range taken {
			p.DecRef()
		}
	})
}
