package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// attachDaemon takes in files.
type attachDaemon struct {
	Daemon
	attach func(*os.File) (Attached, error)
}

var testNetwork = Network{
	Interface: "wg0",
	MTU:       1420,
	Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")},
	Routes:    []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")},
	DNS:       []netip.Addr{netip.MustParseAddr("10.0.0.53")},
	Hosts:     map[string][]netip.Addr{"bob": {netip.MustParseAddr("10.0.0.2")}},
}

func (d *attachDaemon) Network(context.Context) (Network, error) { return testNetwork, nil }
func (d *attachDaemon) Attach(device *os.File) (Attached, error) { return d.attach(device) }

// attachedFile is a part in a tunnel that holds a file.
type attachedFile struct {
	file *os.File
	once sync.Once
	done chan struct{}
}

func (a *attachedFile) Range() (first, last uint16) { return 10, 20 }
func (a *attachedFile) Done() <-chan struct{}       { return a.done }
func (a *attachedFile) Close() error {
	a.once.Do(func() {
		a.file.Close()
		close(a.done)
	})
	return nil
}

func TestAttach(t *testing.T) {
	attached := make(chan *attachedFile, 1)
	d := &attachDaemon{attach: func(f *os.File) (Attached, error) {
		a := &attachedFile{file: f, done: make(chan struct{})}
		attached <- a
		return a, nil
	}}
	path := filepath.Join(t.TempDir(), "wg0.sock")
	serve(t, d, path)
	c := dial(t, path)
	for _, ends := range []string{"client", "daemon"} {
		a, err := c.Attach(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(testNetwork, a.Network, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Error(diff)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		first, last, err := a.Send(w)
		if err != nil || first != 10 || last != 20 {
			t.Fatalf("Send: %d, %d, %v", first, last, err)
		}
		w.Close()
		there := <-attached
		if _, err := there.file.WriteString("hello"); err != nil { // the file is the same one
			t.Error(err)
		}
		if ends == "client" {
			a.Close()
			<-there.done
		} else {
			there.Close()
			<-a.Done()
		}
		if text, err := io.ReadAll(r); string(text) != "hello" || err != nil {
			t.Errorf("%q, %v", text, err)
		}
		r.Close()
		a.Close()
		<-a.Done()
	}
}

func TestAttachRefused(t *testing.T) {
	d := &attachDaemon{attach: func(f *os.File) (Attached, error) { return nil, errors.Join(errors.New("no room"), f.Close()) }}
	path := filepath.Join(t.TempDir(), "wg0.sock")
	serve(t, d, path)
	c := dial(t, path)
	a, err := c.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, _, err := a.Send(w); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("got %v", err)
	}
	// Who says nothing, or something else, is told so or left.
	b, err := c.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	e, err := c.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	var reply attachReply
	if err := e.in.Decode(&reply); err != nil || !strings.Contains(reply.Error, "descriptor") {
		t.Errorf("got %+v, %v", reply, err)
	}
}

// A client that sends more than one descriptor is refused, and the daemon keeps none of them.
func TestAttachManyFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wg0.sock")
	serve(t, &attachDaemon{}, path)
	a, err := dial(t, path).Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fd := int(w.Fd())
	if _, _, err := a.conn.(*net.UnixConn).WriteMsgUnix([]byte{0}, unix.UnixRights(fd, fd), nil); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var reply attachReply
	if err := a.in.Decode(&reply); err != nil || !strings.Contains(reply.Error, "2 descriptors") {
		t.Errorf("got %+v, %v", reply, err)
	}
	if _, err := io.ReadAll(r); err != nil { // ends with the last copy of w
		t.Error(err)
	}
}
