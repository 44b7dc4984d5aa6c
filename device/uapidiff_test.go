package device

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	wgdevice "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	wgtun "golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/inproc"
)

// What the UAPI does otherwise than wireguard-go's, on purpose:
//
//   - A set operation is applied once it is there whole, to its blank line or the end of input: one that is half written holds up nobody, and
//     one that breaks off with an error of the connection changes nothing. So the answer to one that fails comes after its last line,
//     and not after the wrong one.
//   - An operation that a client writes without waiting for the answer to the one before is answered. wireguard-go reads ahead in a set operation and drops it.
//   - A port that another program has leaves the interface at the one that it had. wireguard-go closes its sockets.
//   - An IPv4 address written as an IPv6 one (::ffff:192.0.2.1) is that IPv4 address. wireguard-go can't send there.
//
// The first two do not show in what [rivals] feeds; the others are evened out in [comparable].

// downTUN never says that it is up, which would bring the device up.
type downTUN struct {
	wgtun.Device
	events chan wgtun.Event
}

func newDownTUN() wgtun.Device {
	return downTUN{tuntest.NewChannelTUN().TUN(), make(chan wgtun.Event)}
}

func (d downTUN) Events() <-chan wgtun.Event { return d.events }

func (d downTUN) Close() error {
	close(d.events)
	return d.Device.Close()
}

var discard = slog.New(slog.DiscardHandler)

// rival is one of the devices that are to agree.
type rival struct {
	name   string
	handle func(net.Conn)
	set    func(string) error
	up     func() error
	device *Device // nil: wireguard-go's own
}

// newRivals makes wireguard-go's own device, that of wice-go without ICE, and one with ICE.
func newRivals(t testing.TB, up bool) []rival {
	t.Helper()
	plain := wgdevice.NewDevice(newDownTUN(), conn.NewDefaultBind(), &wgdevice.Logger{Verbosef: wgdevice.DiscardLogf, Errorf: wgdevice.DiscardLogf})
	t.Cleanup(plain.Close)
	rivals := []rival{{"wireguard-go", plain.IpcHandle, plain.IpcSet, plain.Up, nil}}
	for name, backends := range map[string][]Backend{"wice-go": nil, "wice-go with ICE": inprocBackend(new(inproc.Bus))} {
		d, err := New(Options{Config: &config.Config{}, Tun: newDownTUN(), Backends: backends, Logger: discard})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Close)
		rivals = append(rivals, rival{name, d.HandleUAPI, func(text string) error { return d.ipcSet([]byte(text)) }, func() error { return d.Up(0) }, d})
	}
	for _, r := range rivals {
		if !up {
			break
		}
		if err := r.up(); err != nil {
			t.Fatal(err)
		}
	}
	return rivals
}

// talk is a connection whose client has written all that it will.
type talk struct {
	net.Conn
	in  bytes.Reader
	out bytes.Buffer
}

func (c *talk) Read(b []byte) (int, error)  { return c.in.Read(b) }
func (c *talk) Write(b []byte) (int, error) { return c.out.Write(b) }
func (c *talk) Close() error                { return nil }

// answer is what a device answers to text.
func (r *rival) answer(text string) string {
	var c talk
	c.in.Reset([]byte(text))
	r.handle(&c)
	return c.out.String()
}

// agree fails the test unless all rivals answer the same to text after before, and are the same then.
func agree(t *testing.T, rivals []rival, before, text string) {
	t.Helper()
	reset := "set=1\nlisten_port=0\nprivate_key=" + strings.Repeat("0", 64) + "\nfwmark=0\nreplace_peers=true\n\n"
	var answers, states []string
	for _, r := range rivals {
		if got := r.answer(reset); got != "errno=0\n\n" {
			t.Fatalf("%s: reset: got %q", r.name, got)
		}
		r.answer("set=1\n" + before)
		answers = append(answers, comparable(r.answer(text)))
		states = append(states, comparable(r.answer("get=1\n\n")))
		// Without a connection the number is the same.
		if operation, ok := strings.CutPrefix(text, "set=1\n"); ok {
			r.answer(reset)
			r.answer("set=1\n" + before)
			if got := fmt.Sprintf("errno=%d\n\n", errno(r.set(operation))); got != answers[len(answers)-1] {
				t.Fatalf("%q after %q: %s answers %q, and says %q of it as a text", text, before, r.name, answers[len(answers)-1], got)
			}
		}
	}
	for i := range rivals {
		if d := rivals[i].device; d != nil {
			if diff := d.tableDiff(t); diff != "" {
				t.Fatalf("%q after %q: the table of %s differs from WireGuard's: (-want +got)\n%s", text, before, rivals[i].name, diff)
			}
		}
		if answers[i] != answers[0] {
			t.Fatalf("%q after %q: %s answers %q, %s %q", text, before, rivals[i].name, answers[i], rivals[0].name, answers[0])
		}
		if states[i] != states[0] {
			t.Fatalf("%q after %q: got of %s\n%s\nwant, as of %s\n%s", text, before, rivals[i].name, states[i], rivals[0].name, states[0])
		}
	}
}

// comparable sorts the peers of an answer, which come in no order, and leaves out what the moment decides.
func comparable(text string) string {
	var sections []string
	section := new(strings.Builder)
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch name {
		case "public_key", "errno":
			sections = append(sections, section.String())
			section.Reset()
		case "endpoint":
			if addr, err := netip.ParseAddrPort(value); err == nil {
				line = fmt.Sprintf("endpoint=%s\n", netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()))
			}
		case "tx_bytes": // of handshakes that nobody answers
			continue
		case "listen_port":
			if port, err := strconv.Atoi(value); err == nil && port >= 1024 && port < 65535 { // a random one
				continue
			}
		}
		section.WriteString(line)
	}
	sections = append(sections, section.String())
	if len(sections) > 1 {
		slices.Sort(sections[1:])
	}
	return strings.Join(sections, "")
}

var setKeys = func() (list []key.Private) {
	for i := range 3 {
		var k key.Private
		k[0], k[31] = byte(8*(i+1)), 0x40
		list = append(list, k)
	}
	return list
}()

// badUAPI is what clients do wrong, and what is unusual but right.
func badUAPI() []string {
	a, b, own := setKeys[0].Public().Hex(), setKeys[1].Public().Hex(), setKeys[2]
	const on = "persistent_keepalive_interval=25\n"
	peer := "public_key=" + a + "\n"
	list := []string{
		"", "\n", "\n\n", "get", "get=1", "get=1\n", "get=1\n\n", "get=1\n\nget=1\n\n", "get=1\nx", "get=1\n\r\n", "get=1\r\n\r\n", "get=2\n\n", "get=1 \n\n", "GET=1\n\n", "set", "set=1", "set=0\n\n",
		"set=1\r\n\r\n", "\x00", "get=1\n\nset=1\nlisten_port=7\n\n", "get=1\n\nnonsense\n", "x=" + strings.Repeat("x", 3000) + "\n", strings.Repeat("x", 100_000), "restart=1\n\n",
	}
	for _, text := range []string{
		// The shape.
		"", "\n", "\r\n", "\r\r\n\n", "\r", " \n\n", "nonsense\n\n", "nonsense", "=\n\n", "=1\n\n", "listen_port\n\n", "listen_port=\n\n", "get=1\n\n", "set=1\n\n", "\x00\n\n", "listen_port=5\x00\n\n", "\xff\xfe=\xff\n\n",
		"listen_port=5\r\n\r\n", "listen_port=5\r\nfwmark=3", " listen_port=5\n\n", "listen_port =5\n\n", "listen_port= 5\n\n", "LISTEN_PORT=5\n\n", "listen_port=5=5\n\n", "errno=0\n\n",
		// The interface.
		"listen_port=65535\n\n", "listen_port=65536\n\n", "listen_port=-1\n\n", "listen_port=0x10\n\n", "listen_port=+5\n\n", "listen_port=1_0\n\n", "listen_port=99999999999999999999\n\n", "listen_port=5\nlisten_port=x\n\n",
		"fwmark=4294967295\n\n", "fwmark=4294967296\n\n", "fwmark=0x5\n\n", "fwmark=-1\n\n", "fwmark=\n\n", "replace_peers=false\n\n", "replace_peers=\n\n", "replace_peers\n\n", "replace_peers=true\nnonsense=1\n\n",
		"replace_peers=true\n" + peer + "\n", "replace_peers=true\n" + peer + on + "endpoint=127.0.0.1:5\npublic_key=" + b + "\n\n", "replace_peers=true\nreplace_peers=true\n" + peer + "endpoint=x\n\n",
		"private_key=" + own.Hex() + "\n\n", "private_key=" + strings.ToUpper(own.Hex()) + "\n\n", "private_key=" + strings.Repeat("0", 64) + "\n\n", "private_key=" + strings.Repeat("ff", 32) + "\n\n", "private_key=\n\n",
		"private_key=" + own.Hex()[1:] + "\n\n", "private_key=" + own.Hex() + "00\n\n", "private_key=" + strings.Repeat("zz", 32) + "\n\n", "private_key=" + own.Base64() + "\n\n", "private_key=" + setKeys[0].Hex() + "\n\n",
		"endpoint=127.0.0.1:1\n\n", "allowed_ip=10.0.0.0/8\n\n", "remove=true\n\n", on + "\n", "protocol_version=1\n\n", "update_only=true\n\n", "preshared_key=" + strings.Repeat("5a", 32) + "\n\n",
		"public_key=" + own.Public().Hex() + "\n" + on + "endpoint=127.0.0.1:1\npreshared_key=zz\n\n", "private_key=" + own.Hex() + "\npublic_key=" + own.Public().Hex() + "\n" + on + "endpoint=127.0.0.1:1\nallowed_ip=::/0\n" + peer + on + "\n",
		// Keys of peers.
		"public_key=\n\n", "public_key\n\n", "public_key=zz\n" + on + "\n", "public_key=" + a[1:] + "\n\n", "public_key=" + a + "00\n\n", "public_key=" + setKeys[0].Public().String() + "\n\n", "public_key=" + strings.Repeat("0", 64) + "\n" + on + "\n",
		"public_key=" + strings.Repeat("f", 64) + "\n" + on + "\n", "public_key=" + strings.ToUpper(a) + "\n" + peer + "\n", "public_key=" + b + "\npublic_key=zz\n" + on + "\n", "public_key=" + a + "\nprivate_key=" + own.Hex() + "\n\n",
	} {
		list = append(list, "set=1\n"+text)
	}
	for _, text := range []string{ // of one peer
		"", on, on + "nonsense=1\n", on + "nonsense\n", on + "remove=true\n", on + "remove=false\n", "remove=true\n" + on, "remove=true\n" + on + peer, on + peer + on, on + "persistent_keepalive_interval=9\n",
		on + peer + "remove=true\n" + peer, on + peer + "persistent_keepalive_interval=0\n", on + "update_only=true\n", "update_only=true\n" + on + peer, on + "update_only=true\n" + peer, "update_only=false\n", "update_only=\n",
		"remove=true\nendpoint=127.0.0.1:1\n" + peer, "endpoint=127.0.0.1:1\n" + peer + "remove=true\n" + peer, "update_only=true\nendpoint=127.0.0.1:1\n" + peer, "endpoint=127.0.0.1:1\nnonsense=1\n",
		"nonsense=1\nendpoint=127.0.0.1:1\n" + on, "nonsense=1\n" + on, "public_key=" + b + "\nendpoint=127.0.0.1:2\n" + on + "nonsense=1\n" + peer + on, "remove=\n", "remove\n", "replace_peers=true\n", "listen_port=7\n",
		"persistent_keepalive_interval=65535\n", "persistent_keepalive_interval=65536\n", "persistent_keepalive_interval=-1\n", "persistent_keepalive_interval=off\n", "persistent_keepalive_interval=\n", "persistent_keepalive_interval=025\n",
		"endpoint=\n", "endpoint=example.com:1\n", "endpoint=127.0.0.1\n", "endpoint=127.0.0.1:\n", "endpoint=127.0.0.1:65536\n", "endpoint=[::1]:5\n", "endpoint=::1:5\n", "endpoint=[::ffff:127.0.0.1]:5\n", "endpoint=[fe80::1%1]:5\n",
		"endpoint=[fe80::1%lo]:5\n", "endpoint=0.0.0.0:0\n", "endpoint=[::]:0\n", "endpoint=127.0.0.1:0\n", "endpoint=127.0.0.1:1 \n", "endpoint=0.0.0.0:00\n", "endpoint=127.0.0.1:007\n",
		"allowed_ip=\n", "allowed_ip=10.0.0.0\n", "allowed_ip=10.0.0.0/33\n", "allowed_ip=10.0.0.1/8\n", "allowed_ip=::/129\n", "allowed_ip=::ffff:10.0.0.0/104\n", "allowed_ip=-10.0.0.0/8\n", "allowed_ip=10.0.0.0/8\nallowed_ip=-10.0.0.0/8\n",
		"allowed_ip=--10.0.0.0/8\n", "allowed_ip=-\n", "allowed_ip=fe80::1%1/128\n", "allowed_ip=10.0.0.0/08\n", "allowed_ip=10.0.0.0/8\npublic_key=" + b + "\nallowed_ip=10.0.0.0/8\n", "allowed_ip=10.0.0.0/8\nreplace_allowed_ips=true\n",
		"replace_allowed_ips=false\n", "replace_allowed_ips\n", "protocol_version=1\n", "protocol_version=2\n", "protocol_version=\n", "preshared_key=" + strings.Repeat("5a", 32) + "\n", "preshared_key=" + strings.Repeat("5a", 31) + "\n",
		"preshared_key=" + strings.Repeat("zz", 32) + "\n", "preshared_key=\n", "last_handshake_time_sec=1\n", "rx_bytes=1\n", "errno=0\n", "persistent_keepalive_interval=9",
		"public_key=" + b + "\nendpoint=127.0.0.1:1\n" + on + "\r\nnonsense", "allowed_ip=" + strings.Repeat("1", 2000) + "\n", on + "public_key=" + strings.ToUpper(a) + "\n", on + "\r\n",
	} {
		list = append(list, "set=1\n"+peer+text, "set=1\n"+peer+text+"\n")
	}
	return list
}

// TestUAPIAgrees compares the answers and the state afterwards with wireguard-go's, on devices that are down and up, with a key and without.
func TestUAPIAgrees(t *testing.T) {
	a, b := setKeys[0].Public().Hex(), setKeys[1].Public().Hex()
	befores := []string{
		"", "private_key=" + setKeys[2].Hex() + "\n",
		"private_key=" + setKeys[2].Hex() + "\npublic_key=" + a + "\nendpoint=127.0.0.1:9\nallowed_ip=10.0.0.0/8\npersistent_keepalive_interval=3\npublic_key=" + b + "\nallowed_ip=::/0\n",
	}
	for _, state := range []string{"down", "up"} {
		t.Run(state, func(t *testing.T) {
			rivals := newRivals(t, state == "up")
			for _, text := range badUAPI() {
				if state == "up" && strings.Contains(text, "listen_port=") {
					continue // one alone can have a port
				}
				for _, before := range befores {
					agree(t, rivals, before, text)
				}
			}
		})
	}
}

// TestRandomSetsAgree puts operations together of few peers, so that they meet.
func TestRandomSetsAgree(t *testing.T) {
	rivals := newRivals(t, false)
	random := rand.New(rand.NewPCG(1, 2))
	lines := []string{
		"persistent_keepalive_interval=25", "persistent_keepalive_interval=0", "persistent_keepalive_interval=7", "remove=true", "update_only=true",
		"allowed_ip=10.0.0.1/32", "allowed_ip=10.0.0.2/32", "allowed_ip=-10.0.0.1/32", "replace_allowed_ips=true", "endpoint=127.0.0.1:1", "endpoint=[::1]:2",
		"preshared_key=" + strings.Repeat("5a", 32), "protocol_version=1", "protocol_version=2",
	}
	operation := func() string {
		var b strings.Builder
		if random.IntN(4) == 0 {
			fmt.Fprintf(&b, "private_key=%s\n", setKeys[random.IntN(3)].Hex())
		}
		if random.IntN(8) == 0 {
			b.WriteString("replace_peers=true\n")
		}
		for range random.IntN(5) {
			pk := setKeys[random.IntN(3)].Public().Hex()
			if random.IntN(4) == 0 {
				pk = strings.ToUpper(pk)
			}
			fmt.Fprintf(&b, "public_key=%s\n", pk)
			for range random.IntN(5) {
				n := len(lines)
				if random.IntN(4) > 0 {
					n-- // the last one is an error
				}
				b.WriteString(lines[random.IntN(n)] + "\n")
			}
		}
		return b.String()
	}
	for range 500 {
		agree(t, rivals, operation(), "set=1\n"+operation())
	}
}

// FuzzUAPI feeds what is no matter for a network: no device is up.
func FuzzUAPI(f *testing.F) {
	for _, text := range badUAPI() {
		f.Add(text)
	}
	before := "private_key=" + setKeys[2].Hex() + "\npublic_key=" + setKeys[0].Public().Hex() + "\nendpoint=127.0.0.1:9\nallowed_ip=10.0.0.0/8\npersistent_keepalive_interval=3\n"
	rivals := newRivals(f, false)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 || strings.Count(text, "public_key") > 20 {
			return // more than wireguard-go reads at a time, or slow
		}
		agree(t, rivals, before, onlyOneSet(text))
	})
}

// onlyOneSet cuts what follows the first set operation.
func onlyOneSet(text string) string {
	end := 0
	for strings.HasPrefix(text[end:], "get=1\n") && len(text) > end+len("get=1\nx") {
		end += len("get=1\n\n")
	}
	if !strings.HasPrefix(text[end:], "set=1\n") {
		return text
	}
	end += len("set=1\n")
	for line := range strings.Lines(text[end:]) {
		end += len(line)
		if line == "\n" || line == "\r\n" {
			break
		}
	}
	return text[:end]
}

// TestLongUAPI is about operations that wireguard-go does not read at once, and lines that it does not take.
func TestLongUAPI(t *testing.T) {
	rivals := newRivals(t, false)
	peer := "public_key=" + setKeys[0].Public().Hex() + "\n"
	for _, text := range []string{
		peer + strings.Repeat("allowed_ip=10.0.0.0/8\nallowed_ip=-10.0.0.0/8\n", 1000) + "\n",
		peer + "persistent_keepalive_interval=" + strings.Repeat("0", 60_000) + "9\n\n",
		peer + "persistent_keepalive_interval=" + strings.Repeat("0", bufio.MaxScanTokenSize) + "9\n\n",
		peer + "persistent_keepalive_interval=9\nallowed_ip=" + strings.Repeat("1", bufio.MaxScanTokenSize) + "\n\n",
		"listen_port=" + strings.Repeat("0", bufio.MaxScanTokenSize-len("listen_port=7\n")) + "7\n\n",
		"listen_port=" + strings.Repeat("0", bufio.MaxScanTokenSize-len("listen_port=7")) + "7\n\n",
	} {
		agree(t, rivals, "", "set=1\n"+text)
	}
}

func TestUAPIPortInUse(t *testing.T) {
	taken, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.LocalAddr().String())
	agree(t, newRivals(t, true), "", "set=1\nlisten_port="+port+"\npublic_key="+setKeys[0].Public().Hex()+"\n\n")
}

// TestPortTaken is about what wireguard-go does not do: an interface that can't have another port keeps its own, and its peers.
func TestPortTaken(t *testing.T) {
	a, b := newPair(t)
	taken, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := a.bind.Port()
	if err := a.ipcSet(fmt.Appendf(nil, "listen_port=%d\n", taken.LocalAddr().(*net.UDPAddr).Port)); errno(err) != ipc.IpcErrorPortInUse {
		t.Errorf("got %v, want that another program has the port", err)
	}
	if got := a.bind.Port(); got != port {
		t.Errorf("got the port %d, want the former one, %d", got, port)
	}
	a.ping(t, b.address)
	if s := a.until(t, "connected", connected); s.ListenPort != port || s.Peers[0].Restarts != 0 {
		t.Errorf("got %+v, want port %d and the session of before", s, port)
	}
}

// TestUAPIGoesOn has what wireguard-go's does not: see the top.
func TestUAPIGoesOn(t *testing.T) {
	for _, r := range newRivals(t, false)[1:] {
		if got, want := r.answer("set=1\nnonsense\nlisten_port=7\n\nset=1\nfwmark=3\n\nget=1\n\n"), "errno=-71\n\nerrno=0\n\nfwmark=3\nerrno=0\n\n"; got != want {
			t.Errorf("%s: got %q, want %q", r.name, got, want)
		}
	}
}
