package netstack

import (
	"net/netip"
	"testing"
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
