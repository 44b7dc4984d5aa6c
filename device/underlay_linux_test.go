package device

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wice-go/wice-go/proto"
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

// A mark set while the interface is up leaves alone a session over UDP, at once and when others set something later, and keeps TCP from the
// next ones.
func TestSetMarkLeavesSessions(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("marks need root")
	}
	a, b := newPair(t)
	pk := b.private.Public()
	session, router := a.lookup(pk).session, a.router
	for n, mark := range []uint32{0x7769, 0x7770, 0, 0x7771} {
		if n%2 == 0 {
			if err := a.SetMark(mark); err != nil {
				t.Fatal(err)
			}
		} else {
			a.set(t, fmt.Sprintf("fwmark=%d\n", mark))
		}
		a.uapi(t, fmt.Sprintf("set=1\npublic_key=%x\npersistent_keepalive_interval=%d\n\n", pk[:], 1+mark&0xff))
		if a.lookup(pk).session != session || a.router != router {
			t.Errorf("mark %#x: sessions and signaling are others", mark)
		}
		if tcp := slices.ContainsFunc(a.networkTypes, proto.NetworkType.IsTCP); tcp != (mark == 0) {
			t.Errorf("mark %#x: network types %v", mark, a.networkTypes)
		}
	}
	if s := a.until(t, "connected", connected); s.Peers[0].Restarts != 0 {
		t.Errorf("the session is another one: %+v", s.Peers[0])
	}
	a.ping(t, b.address)
}

// A mark that can't be set changes nothing.
func TestSetMarkRefused(t *testing.T) {
	a := newEnd(t, new(inproc.Bus), key.NewPrivate(), "10.7.0.1", "")
	if err := a.Up(0); err != nil {
		t.Fatal(err)
	}
	err := make(chan error)
	go func() {
		runtime.LockOSThread()       // never unlocked: the thread ends, and with it what it is without
		var none [2]unix.CapUserData // of version 3
		if e := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); e != nil {
			t.Error(e)
		}
		err <- a.SetMark(1)
	}()
	if e := <-err; !errors.Is(e, os.ErrPermission) {
		t.Errorf("got %v without the right to mark sockets", e)
	}
	if !slices.ContainsFunc(a.networkTypes, proto.NetworkType.IsTCP) {
		t.Errorf("got network types %v, want TCP as before", a.networkTypes)
	}
}
