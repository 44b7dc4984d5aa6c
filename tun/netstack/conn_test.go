package netstack

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
)

// TestConnErrors checks that connections fail as those of package net.
func TestConnErrors(t *testing.T) {
	a, b := newPair(t)
	l, err := b.ListenTCP(netip.AddrPortFrom(b4, 7))
	if err != nil {
		t.Fatal(err)
	}
	udp, err := b.ListenUDP(netip.AddrPortFrom(b4, 7))
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"tcp", "udp"} {
		var far net.Conn // of the last connection
		dial := func() net.Conn {
			t.Helper()
			c, err := a.DialContext(testContext(t), network, "10.0.0.2:7")
			if err == nil && network == "tcp" {
				far, err = l.Accept()
			}
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		fails := func(what string, c net.Conn, want error) {
			t.Helper()
			_, readErr := c.Read(make([]byte, 1))
			_, writeErr := c.Write(make([]byte, 1))
			for _, err := range []error{readErr, writeErr} {
				if op := new(net.OpError); !errors.As(err, &op) || !errors.Is(err, want) {
					t.Errorf("%s %s: got %v, want %v", network, what, err, want)
				}
			}
		}
		c := dial()
		c.SetDeadline(time.Unix(1, 0))
		fails("after its deadline", c, os.ErrDeadlineExceeded)
		c.SetDeadline(time.Time{})
		reading := make(chan error)
		go func() {
			_, err := c.Read(make([]byte, 1))
			reading <- err
		}()
		c.Close()
		if err := <-reading; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s closed while it is read: got %v, want %v", network, err, net.ErrClosed)
		}
		fails("closed", c, net.ErrClosed)
		if network == "udp" {
			break
		}
		c = dial()
		far.Close()
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("ended: got %v, want %v", err, io.EOF)
		}
		c.Close()
		c = dial()
		remote := c.RemoteAddr().String()
		b.reset(nil, far)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("reset: got %v, want %v", err, syscall.ECONNRESET)
		}
		if _, err := c.Write(make([]byte, 1)); !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("write when it was reset: got %v", err)
		}
		if got := c.RemoteAddr(); got == nil || got.String() != remote {
			t.Errorf("reset: got the address %v, want %s", got, remote)
		}
		c.Close()
	}
	c, err := a.DialContext(testContext(t), "tcp", "10.0.0.2:7")
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	for range 2 {
		if _, _, err := udp.ReadFrom(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("UDP of a closed stack: got %v, want %v", err, net.ErrClosed)
		}
	}
	a.Close()
	for range 2 {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("TCP of a closed stack: got %v, want %v", err, net.ErrClosed)
		}
	}
}

// TestListenErrors checks that a port in use and another's address are known as such to programs.
func TestListenErrors(t *testing.T) {
	s, err := New([]netip.Addr{a4}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	listen := map[string]func(address string) error{
		"tcp": func(address string) error { _, err := s.Listen("tcp", address); return err },
		"udp": func(address string) error { _, err := s.ListenPacket("udp", address); return err },
	}
	for network, listen := range listen {
		if err := listen("10.0.0.1:7"); err != nil {
			t.Fatal(err)
		}
		if err := listen("10.0.0.1:7"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s port in use: got %v", network, err)
		}
		if err := listen("10.0.0.2:7"); !errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Errorf("%s address of another: got %v", network, err)
		}
	}
}
