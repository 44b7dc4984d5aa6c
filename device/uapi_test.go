package device

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	wgdevice "golang.zx2c4.com/wireguard/device"
	wgtun "golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/inproc"
)

// downTUN never says that it is up, which would bring the device up.
type downTUN struct {
	wgtun.Device
	events chan wgtun.Event
}

func (d downTUN) Events() <-chan wgtun.Event { return d.events }

func (d downTUN) Close() error {
	close(d.events)
	return d.Device.Close()
}

// plain is wireguard-go's own device, never brought up.
func plain(t testing.TB) *wgdevice.Device {
	t.Helper()
	d := wgdevice.NewDevice(downTUN{tuntest.NewChannelTUN().TUN(), make(chan wgtun.Event)}, conn.NewDefaultBind(), &wgdevice.Logger{Verbosef: wgdevice.DiscardLogf, Errorf: wgdevice.DiscardLogf})
	t.Cleanup(d.Close)
	return d
}

// splitChecker compares a set operation with its parts on two devices.
type splitChecker struct{ whole, parts *wgdevice.Device }

func newSplitChecker(t testing.TB) *splitChecker { return &splitChecker{plain(t), plain(t)} }

// check applies text to both devices after before, which sets them to the same state.
func (c *splitChecker) check(t *testing.T, before, text string) {
	t.Helper()
	for _, d := range []*wgdevice.Device{c.whole, c.parts} {
		if err := d.IpcSet("private_key=" + strings.Repeat("0", 64) + "\nlisten_port=0\nfwmark=0\nreplace_peers=true\n" + before); err != nil {
			t.Fatal(err)
		}
	}
	whole := c.whole.IpcSet(text)
	op := splitSet(text, func(string) bool { return false })
	parts := c.parts.IpcSet(op.first)
	if parts == nil && op.keepalives != "" {
		parts = c.parts.IpcSet(op.keepalives)
	}
	if errno(whole) != errno(parts) {
		t.Fatalf("%q after %q: got error %v, want %v", text, before, parts, whole)
	}
	if whole != nil {
		return // what was done of it before is left to chance
	}
	want, err := c.whole.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.parts.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	if sorted(got) != sorted(want) {
		t.Fatalf("%q after %q: got\n%s\nwant\n%s", text, before, got, want)
	}
}

// sorted makes the answer of a device independent of the order of its peers.
func sorted(text string) string {
	sections := strings.Split(text, "public_key=")
	for i := range sections {
		for j := range i {
			if sections[j] > sections[i] {
				sections[i], sections[j] = sections[j], sections[i]
			}
		}
	}
	return strings.Join(sections, "public_key=")
}

var splitKeys = func() (list []key.Private) {
	for i := range 3 {
		var k key.Private
		k[0], k[31] = byte(8*(i+1)), 0x40
		list = append(list, k)
	}
	return list
}()

// TestSplitSetChangesNothing puts random operations together of few peers, so that they meet.
func TestSplitSetChangesNothing(t *testing.T) {
	c := newSplitChecker(t)
	random := rand.New(rand.NewPCG(1, 2))
	lines := []string{
		"persistent_keepalive_interval=25", "persistent_keepalive_interval=0", "persistent_keepalive_interval=7", "remove=true", "update_only=true",
		"allowed_ip=10.0.0.1/32", "allowed_ip=10.0.0.2/32", "allowed_ip=-10.0.0.1/32", "replace_allowed_ips=true", "endpoint=127.0.0.1:1", "endpoint=[::1]:2",
		"preshared_key=" + strings.Repeat("5a", 32), "protocol_version=1",
	}
	operation := func() string {
		var b strings.Builder
		if random.IntN(4) == 0 {
			fmt.Fprintf(&b, "private_key=%s\n", splitKeys[random.IntN(3)].Hex())
		}
		if random.IntN(8) == 0 {
			b.WriteString("replace_peers=true\n")
		}
		for range random.IntN(5) {
			pk := splitKeys[random.IntN(3)].Public().Hex()
			if random.IntN(4) == 0 {
				pk = strings.ToUpper(pk)
			}
			fmt.Fprintf(&b, "public_key=%s\n", pk)
			for range random.IntN(5) {
				b.WriteString(lines[random.IntN(len(lines))] + "\n")
			}
		}
		return b.String()
	}
	for range 500 {
		c.check(t, operation(), operation())
	}
}

func FuzzSplitSet(f *testing.F) {
	a, b := splitKeys[0].Public().Hex(), splitKeys[1].Public().Hex()
	const on = "persistent_keepalive_interval=25\n"
	for _, text := range []string{
		"", "\n", "public_key=" + a + "\n" + on, "public_key=" + a + "\n" + on + "remove=true\n", "public_key=" + a + "\n" + on + "public_key=" + a + "\nremove=true\npublic_key=" + a + "\n",
		"public_key=" + a + "\nupdate_only=true\n" + on + "public_key=" + a + "\nallowed_ip=::/0\n", on, "public_key=zz\n" + on, "public_key=" + a + "\n" + on + "\npublic_key=" + b + "\n" + on,
		"public_key=" + a + "\r\n" + on, "public_key=" + a + "\npersistent_keepalive_interval=x\n", "public_key=" + strings.Repeat("0", 64) + "\n" + on, "nonsense", "public_key=" + a + "\npersistent_keepalive_interval\n",
		"public_key=" + a + "\npersistent_keepalive_interval=9",
	} {
		f.Add(text)
	}
	c := newSplitChecker(f)
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "listen_port") || strings.Contains(text, "fwmark") || strings.Count(text, "public_key") > 20 {
			return // these are of the system, or slow
		}
		if len(text) > 60_000 {
			return // longer than the lines that wireguard-go reads
		}
		c.check(t, "", text)
	})
}

func FuzzParseState(f *testing.F) {
	pk := splitKeys[0].Public().Hex()
	f.Add([]byte("private_key=" + splitKeys[0].Hex() + "\nlisten_port=51820\nfwmark=1\npublic_key=" + pk + "\npreshared_key=" + strings.Repeat("0", 64) +
		"\nprotocol_version=1\nendpoint=[::1]:1\nlast_handshake_time_sec=1785000000\nlast_handshake_time_nsec=5\ntx_bytes=1\nrx_bytes=2\npersistent_keepalive_interval=3\nallowed_ip=10.0.0.2/32\n"))
	f.Add([]byte("listen_port=65536\n"))
	f.Add([]byte("public_key=zz\n"))
	f.Add([]byte("public_key=" + pk + "\nallowed_ip=10.0.0.0/33\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(bytes.NewBuffer(bytes.Clone(b)))
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
