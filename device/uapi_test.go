package device

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/inproc"
)

func FuzzParseState(f *testing.F) {
	pk := setKeys[0].Public().Hex()
	f.Add([]byte("private_key=" + setKeys[0].Hex() + "\nlisten_port=51820\nfwmark=1\npublic_key=" + pk + "\npreshared_key=" + strings.Repeat("0", 64) +
		"\nprotocol_version=1\nendpoint=[::1]:1\nlast_handshake_time_sec=1785000000\nlast_handshake_time_nsec=5\ntx_bytes=1\nrx_bytes=2\npersistent_keepalive_interval=3\nallowed_ip=10.0.0.2/32\n"))
	f.Add([]byte("listen_port=65536\n"))
	f.Add([]byte("public_key=zz\n"))
	f.Add([]byte("public_key=" + pk + "\nallowed_ip=10.0.0.0/33\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		if err != nil {
			return
		}
		if got := bytes.Count(b, []byte("public_key=")); len(s.peers) > got {
			t.Errorf("got %d peers of %d lines", len(s.peers), got)
		}
		for _, p := range s.peers {
			for _, prefix := range p.allowedIPs {
				if !prefix.IsValid() {
					t.Errorf("got the prefix %v", prefix)
				}
			}
		}
	})
}

// brittle is a listener whose first Accept fails for a reason that passes.
type brittle struct {
	net.Listener
	failed bool
}

func (b *brittle) Accept() (net.Conn, error) {
	if !b.failed {
		b.failed = true
		return nil, syscall.EMFILE
	}
	return b.Listener.Accept()
}

// TestServeUAPIEnds leaves connections idle and half-written, and ends them by closing the listener, or the device.
func TestServeUAPIEnds(t *testing.T) {
	for _, how := range []string{"listener", "device"} {
		t.Run(how, func(t *testing.T) {
			a := newEnd(t, new(inproc.Bus), key.NewPrivate(), "10.7.0.1", "")
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() { defer close(done); a.ServeUAPI(&brittle{Listener: l}) }()
			stranger := key.NewPrivate().Public().Hex()
			var conns []net.Conn
			for _, text := range []string{"", "set=1\npublic_key=" + stranger + "\nallowed_ip=10.7.0.2/3", "get=1\n", "se"} {
				c, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				io.WriteString(c, text)
				conns = append(conns, c)
			}
			// One that gets an answer shows that the others were accepted before it.
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			io.WriteString(c, "get=1\n\n")
			if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			if how == "device" {
				a.Close()
			}
			l.Close()
			select {
			case <-done:
			case <-time.After(patience):
				t.Fatal("ServeUAPI goes on")
			}
			for _, c := range conns {
				c.SetReadDeadline(time.Now().Add(patience))
				if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, syscall.ETIMEDOUT) {
					t.Errorf("got %d, %v, want an end", n, err)
				}
			}
			if how == "listener" {
				if state, err := a.readState(); err != nil || len(state.peers) != 0 {
					t.Errorf("half an operation was applied: %+v, %v", state, err)
				}
			}
		})
	}
}
