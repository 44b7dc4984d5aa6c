package device

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"
)

func openMux(t *testing.T, port uint16) *tcpMux {
	t.Helper()
	m := new(tcpMux)
	m.open(t.Context(), port, nil, slog.New(slog.DiscardHandler))
	if m.inner == nil {
		t.Fatal("the mux does not listen")
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func (m *tcpMux) addr(t *testing.T) *net.TCPAddr {
	t.Helper()
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: m.conns.Addr().(*net.TCPAddr).Port}
}

// TestTCPMuxPortTaken checks that another program on the port costs no more than the port.
func TestTCPMuxPortTaken(t *testing.T) {
	first := openMux(t, 0)
	port := uint16(first.addr(t).Port)
	if second := openMux(t, port); second.addr(t).Port == int(port) {
		t.Errorf("both listen on port %d", port)
	}
}

// TestTCPMuxClose closes a mux under a connection that never said a word, for which pion's would wait.
func TestTCPMuxClose(t *testing.T) {
	m := openMux(t, 0)
	c, err := net.DialTCP("tcp", nil, m.addr(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	closed := make(chan error, 1)
	start := time.Now()
	go func() { closed <- m.Close() }()
	c.SetReadDeadline(start.Add(patience))
	if _, err := c.Read(make([]byte, 1)); errors.Is(err, io.EOF) && time.Since(start) >= tcpFirstCheck {
		t.Error("the connection lived until pion gave it up")
	}
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("Close does not return")
	}
	if took := time.Since(start); took >= tcpFirstCheck {
		t.Errorf("Close took %v", took)
	}
	if err := m.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := m.GetConnByUfrag("ufrag", false, net.IPv4(127, 0, 0, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: got %v, want net.ErrClosed", err)
	}
	m.RemoveConnByUfrag("ufrag") // nothing to remove
}

// TestTCPMuxEmpty uses a mux that was never opened, as where TCP is not wanted.
func TestTCPMuxEmpty(t *testing.T) {
	var m tcpMux
	if _, err := m.GetConnByUfrag("ufrag", false, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
	m.RemoveConnByUfrag("ufrag")
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}
