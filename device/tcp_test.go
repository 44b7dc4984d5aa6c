package device

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/pion/stun"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/inproc"
	"github.com/wice-go/wice-go/test/program"
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

// TestTCPFollows checks that ICE over TCP is on the port of WireGuard, whatever becomes of that, and nowhere when the sockets have a mark.
func TestTCPFollows(t *testing.T) {
	dev := newEnd(t, new(inproc.Bus), key.NewPrivate(), "10.0.0.1", "").Device
	if err := dev.Up(0); err != nil {
		t.Fatal(err)
	}
	port := func() uint16 { // that it asked for: another program may have it
		dev.tcp.mu.Lock()
		defer dev.tcp.mu.Unlock()
		if dev.tcp.inner == nil {
			return 0
		}
		return dev.tcp.port
	}
	if got, want := port(), dev.bind.Port(); got != want {
		t.Errorf("TCP is on port %d, want %d", got, want)
	}
	free := func() int {
		port, err := program.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		return port
	}
	for _, c := range []struct {
		set  string
		want bool
	}{
		{fmt.Sprintf("listen_port=%d\n", free()), true},
		{"fwmark=1\n", false},
		{fmt.Sprintf("listen_port=%d\n", free()), false},
		{"fwmark=0\n", true},
	} {
		if err := dev.ipcSet([]byte(c.set)); err != nil {
			t.Fatal(err)
		}
		var want uint16
		if c.want {
			want = dev.bind.Port()
		}
		if got := port(); got != want {
			t.Errorf("after %q TCP is on port %d, want %d", c.set, got, want)
		}
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

// TestTCPMuxUnknown sends the check for an agent that has ended: its connection ends too, and with it what the mux has for it, within the time in which
// TestRemovedPeerLeavesNothing wants nothing to be left.
func TestTCPMuxUnknown(t *testing.T) {
	m := openMux(t, 0)
	c, err := net.DialTCP("tcp", nil, m.addr(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	check := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername("gone:peer"), stun.Fingerprint).Raw
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(check))), check...)); err != nil { // RFC 4571
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is kept")
	}
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
