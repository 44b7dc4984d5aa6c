package device

import (
	"net"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/inproc"
)

// TestUnderlayMarks looks for the interface's mark on each kind of socket that is made beside the bind's own.
func TestUnderlayMarks(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("marks need root")
	}
	const mark = 0x7769
	a := newEnd(t, new(inproc.Bus), key.NewPrivate(), "10.7.0.1", "")
	if err := a.Up(mark); err != nil {
		t.Fatal(err)
	}
	server, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	to := server.Addr().(*net.TCPAddr)
	for name, open := range map[string]func() (any, error){
		"ListenPacket": func() (any, error) { return a.net.ListenPacket("udp4", "127.0.0.1:0") },
		"Dial":         func() (any, error) { return a.net.Dial("tcp4", to.String()) },
		"DialTCP":      func() (any, error) { return a.net.DialTCP("tcp4", nil, to) },
		"DialUDP":      func() (any, error) { return a.net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to.AddrPort())) },
	} {
		c, err := open()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer c.(interface{ Close() error }).Close()
		raw, err := c.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got int
		control := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK) })
		if control != nil || err != nil || got != mark {
			t.Errorf("%s: got mark %#x, %v, %v, want %#x", name, got, control, err, mark)
		}
	}
}
