package device

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/inproc"
)

func FuzzReadState(f *testing.F) {
	pk := setKeys[0].Public().Hex()
	f.Add([]byte("private_key=" + setKeys[0].Hex() + "\nlisten_port=51820\nfwmark=1\npublic_key=" + pk + "\npreshared_key=" + strings.Repeat("0", 64) +
		"\nprotocol_version=1\nendpoint=[::1]:1\nlast_handshake_time_sec=1785000000\nlast_handshake_time_nsec=5\ntx_bytes=1\nrx_bytes=2\npersistent_keepalive_interval=3\nallowed_ip=10.0.0.2/32\n"))
	f.Add([]byte("listen_port=65536\n"))
	f.Add([]byte("public_key=zz\n"))
	f.Add([]byte("public_key=" + pk + "\nallowed_ip=10.0.0.0/33\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var whole, parts stateReader
		_, err := whole.Write(b)
		_, first := parts.Write(b[:len(b)/2])
		if first == nil {
			_, first = parts.Write(b[len(b)/2:])
		}
		if (err == nil) != (first == nil) {
			t.Errorf("got %v, but %v in two parts", err, first)
		}
		if err != nil {
			return
		}
		s := whole.state
		if fmt.Sprint(s) != fmt.Sprint(parts.state) {
			t.Errorf("got %+v, but %+v in two parts", s, parts.state)
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

// uapiClient is a connection to a served UAPI.
type uapiClient struct {
	net.Conn
	lines *bufio.Reader
}

// serveUAPI serves a device at a socket, and returns what connects to it.
func serveUAPI(t *testing.T, d *Device) (dial func() *uapiClient) {
	t.Helper()
	l, err := ListenUAPI(filepath.Join(t.TempDir(), "wg.sock"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); d.ServeUAPI(l) }()
	t.Cleanup(func() { l.Close(); <-done })
	return func() *uapiClient {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(patience))
		return &uapiClient{c, bufio.NewReader(c)}
	}
}

// ask writes text and returns the answer.
func (c *uapiClient) ask(t *testing.T, text string) string {
	t.Helper()
	if text != "" {
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
	}
	var answer strings.Builder
	for {
		line, err := c.lines.ReadString('\n')
		if err != nil {
			t.Fatalf("%q: after %q: %v", text, &answer, err)
		}
		if line == "\n" {
			return answer.String()
		}
		answer.WriteString(line)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// TestManyUAPIConnections leaves connections idle and operations half written, as many as it likes: a new one is always answered, and those that
// were silent for the longest time end.
func TestManyUAPIConnections(t *testing.T) {
	a := newEnd(t, new(inproc.Bus), key.NewPrivate(), "10.7.0.1", "")
	dial := serveUAPI(t, a.Device)
	stranger := key.NewPrivate().Public().Hex()
	first := dial()
	first.ask(t, "get=1\n\n")
	half := dial()
	io.WriteString(half, "set=1\npublic_key="+stranger+"\nallowed_ip=10.7.0.2/3")
	for range maxUAPIConns - 3 { // with them and the next one there are as many as may be
		dial().ask(t, "get=1\n\n")
	}
	if got := dial().ask(t, "get=1\n\n"); !strings.HasSuffix(got, "errno=0\n") || strings.Contains(got, stranger) {
		t.Errorf("got %q", got)
	}
	if got := half.ask(t, "2\n\n"); got != "errno=0\n" {
		t.Errorf("got %q for the operation that was half written", got)
	}
	dial().ask(t, "get=1\n\n") // one too many: the first has to go
	if n, err := first.Read(make([]byte, 1)); err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %d, %v from the connection that was silent for the longest time, want its end", n, err)
	}
	if got := half.ask(t, "get=1\n\n"); !strings.Contains(got, stranger) {
		t.Errorf("got %q", got)
	}
	for range 3 * maxUAPIConns {
		dial().ask(t, "get=1\n\n")
	}
}

// TestHalfWrittenMemory writes more without an end than may be kept, on as many connections as it takes.
func TestHalfWrittenMemory(t *testing.T) {
	a := newEnd(t, new(inproc.Bus), key.NewPrivate(), "10.7.0.1", "")
	dial := serveUAPI(t, a.Device)
	line := strings.Repeat("x", 1<<20) + "\n"
	fill := func(size int) *uapiClient {
		c := dial()
		io.WriteString(c, "set=1\n")
		for range size/len(line) + 1 {
			io.WriteString(c, line)
		}
		return c
	}
	one := fill(maxSetSize)
	if got := one.ask(t, ""); got != "errno=-5\n" {
		t.Errorf("got %q for too much in one operation", got)
	}
	const part = maxSetSize - 4<<20
	two := []*uapiClient{fill(part), fill(part)}
	eventually(t, "both have arrived", func() bool { return a.uapiBytes.Load() > 2*part-4<<20 })
	if got := dial().ask(t, "get=1\n\n"); !strings.HasSuffix(got, "errno=0\n") {
		t.Errorf("got %q", got)
	}
	if got := fill(maxSetBytes-2*part+4<<20).ask(t, ""); got != "errno=-5\n" {
		t.Errorf("got %q for too much in all", got)
	}
	for _, c := range two {
		c.Close()
	}
	eventually(t, "the memory is free", func() bool { return a.uapiBytes.Load() == 0 })
	if got := dial().ask(t, "set=1\nlisten_port=0\n\n"); got != "errno=0\n" {
		t.Errorf("got %q once there is room", got)
	}
}
