package share

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"

	wgtun "golang.zx2c4.com/wireguard/tun"
)

const testMTU = 1420

var (
	self  = netip.MustParseAddr("10.0.0.1")
	other = netip.MustParseAddr("10.0.0.2")
	self6 = netip.MustParseAddr("fd00::1")
	peer6 = netip.MustParseAddr("fd00::2")
)

// fakeTun is a device whose stack is the test.
type fakeTun struct {
	out       chan []byte   // to WireGuard
	in        chan []byte   // from WireGuard
	interrupt chan struct{} // with room for one
	closed    chan struct{}
	once      sync.Once
}

func newFakeTun() *fakeTun {
	return &fakeTun{out: make(chan []byte, 1000), in: make(chan []byte, 1000), interrupt: make(chan struct{}, 1), closed: make(chan struct{})}
}

func (f *fakeTun) Read(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	var b []byte
	select { // packets before interrupts
	case b = <-f.out:
	default:
		select {
		case b = <-f.out:
		case <-f.interrupt:
			return 0, nil
		case <-f.closed:
			return 0, os.ErrClosed
		}
	}
	for {
		sizes[n] = copy(bufs[n][offset:], b)
		if n++; n == len(bufs) {
			return n, nil
		}
		select {
		case b = <-f.out:
		default:
			return n, nil
		}
	}
}

func (f *fakeTun) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		select {
		case f.in <- bytes.Clone(b[offset:]):
		case <-f.closed:
			return 0, os.ErrClosed
		}
	}
	return len(bufs), nil
}

func (f *fakeTun) Interrupt() {
	select {
	case f.interrupt <- struct{}{}:
	default:
	}
}

func (f *fakeTun) Close() error {
	f.once.Do(func() { close(f.closed) })
	return nil
}

func (f *fakeTun) File() *os.File             { return nil }
func (f *fakeTun) MTU() (int, error)          { return testMTU, nil }
func (f *fakeTun) Name() (string, error)      { return "fake", nil }
func (f *fakeTun) Events() <-chan wgtun.Event { return nil }
func (f *fakeTun) BatchSize() int             { return 8 }

// transport makes a packet of TCP or UDP, or of ICMP echo with the source port as its identifier.
func transport(protocol uint8, from, to netip.AddrPort) []byte {
	body := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from.Port()), to.Port())
	body = append(body, make([]byte, 16)...)
	return ip(protocol, from.Addr(), to.Addr(), 0, body)
}

func echo(kind uint8, from, to netip.Addr, id uint16) []byte {
	body := []byte{kind, 0, 0, 0, byte(id >> 8), byte(id), 0, 1}
	if from.Is6() {
		return ip(protoICMPv6, from, to, 0, body)
	}
	return ip(protoICMP, from, to, 0, body)
}

func ip(protocol uint8, from, to netip.Addr, fragment uint16, body []byte) []byte {
	var b []byte
	if from.Is4() {
		b = make([]byte, 20)
		b[0], b[9] = 0x45, protocol
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(body)))
		binary.BigEndian.PutUint16(b[6:], fragment)
		copy(b[12:], from.AsSlice())
		copy(b[16:], to.AsSlice())
		return append(b, body...)
	}
	b = make([]byte, 40)
	b[0], b[6] = 0x60, protocol
	copy(b[8:], from.AsSlice())
	copy(b[24:], to.AsSlice())
	if fragment != 0 {
		b[6] = extFragment
		b = append(b, protocol, 0, byte(fragment<<3>>8), byte(fragment<<3), 0, 0, 0, 1)
	}
	b = append(b, body...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	return b
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// write hands packets to the device as WireGuard does.
func write(t *testing.T, d *Device, packets ...[]byte) {
	t.Helper()
	const offset = 16
	var bufs [][]byte
	for _, p := range packets {
		bufs = append(bufs, append(make([]byte, offset), p...))
	}
	if n, err := d.Write(bufs, offset); n != len(bufs) || err != nil {
		t.Fatalf("Write: %d, %v", n, err)
	}
}

// next reads packets from the device as WireGuard does, until there is one.
func next(t *testing.T, d *Device) []byte {
	t.Helper()
	bufs, sizes := [][]byte{make([]byte, 2000)}, make([]int, 1)
	for {
		n, err := d.Read(bufs, sizes, 16)
		if err != nil {
			t.Fatal(err)
		}
		if n == 1 {
			return bufs[0][16:][:sizes[0]]
		}
	}
}

func attach(t *testing.T, d *Device) (*Port, *fakeTun) {
	t.Helper()
	dev := newFakeTun()
	p, err := d.Attach(dev)
	if err != nil {
		t.Fatal(err)
	}
	return p, dev
}

// expect wants the packet on one stack, and nothing on the others.
func expect(t *testing.T, what string, want []byte, at *fakeTun, others ...*fakeTun) {
	t.Helper()
	select {
	case got := <-at.in:
		if !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, want %x", what, got, want)
		}
	default:
		t.Errorf("%s: it went elsewhere", what)
	}
	for _, f := range others {
		select {
		case <-f.in:
			t.Errorf("%s: it went to a stack that it is not for", what)
		default:
		}
	}
}

func TestWhoseIsIt(t *testing.T) {
	inner := newFakeTun()
	d := New(inner, func(protocol uint8, local, remote netip.AddrPort) bool {
		return protocol == protoTCP && local.Port() == 22
	})
	defer d.Close()
	syn := transport(protoTCP, at(other, 5000), at(self, 8080))
	write(t, d, syn)
	expect(t, "nothing is attached", syn, inner)

	p1, one := attach(t, d)
	_, two := attach(t, d)
	write(t, d, syn)
	expect(t, "nobody's port", syn, two, one, inner)

	for _, c := range []struct {
		name              string
		question          []byte // of the first attached stack
		answer            []byte
		afterwards, inner bool
	}{
		{name: "TCP", question: transport(protoTCP, at(self, 20000), at(other, 80)), answer: transport(protoTCP, at(other, 80), at(self, 20000))},
		{name: "UDP", question: transport(protoUDP, at(self, 20001), at(other, 80)), answer: transport(protoUDP, at(other, 80), at(self, 20001))},
		{name: "IPv6", question: transport(protoUDP, at(self6, 20002), at(peer6, 80)), answer: transport(protoUDP, at(peer6, 80), at(self6, 20002))},
		{name: "echo", question: echo(echoRequest4, self, other, 7), answer: echo(echoReply4, other, self, 7)},
		{name: "echo over IPv6", question: echo(echoRequest6, self6, peer6, 8), answer: echo(echoReply6, peer6, self6, 8)},
		{name: "error", question: transport(protoTCP, at(self, 20003), at(other, 80)),
			answer: ip(protoICMP, other, self, 0, append([]byte{3, 4, 0, 0, 0, 0, 5, 0}, transport(protoTCP, at(self, 20003), at(other, 80))[:28]...))},
		{name: "error over IPv6", question: transport(protoUDP, at(self6, 20004), at(peer6, 80)),
			answer: ip(protoICMPv6, peer6, self6, 0, append([]byte{2, 0, 0, 0, 0, 0, 5, 0}, transport(protoUDP, at(self6, 20004), at(peer6, 80))...))},
		{name: "error about an echo", question: echo(echoRequest4, self, other, 9),
			answer: ip(protoICMP, other, self, 0, append([]byte{11, 0, 0, 0, 0, 0, 0, 0}, echo(echoRequest4, self, other, 9)...))},
		{name: "without ports", question: ip(47, self, other, 0, make([]byte, 8)), answer: ip(47, other, self, 0, make([]byte, 8))},
		{name: "claimed", question: transport(protoTCP, at(self, 22), at(other, 80)), answer: transport(protoTCP, at(other, 80), at(self, 22)), inner: true},
		{name: "echo request", question: echo(echoRequest4, self, other, 10), answer: echo(echoRequest4, other, self, 10), inner: true},
		{name: "neighbour discovery", question: echo(echoRequest6, self6, peer6, 10), answer: echo(135, peer6, self6, 10), inner: true},
		{name: "garbage", question: []byte{1}, answer: []byte{2, 3}, inner: true},
	} {
		one.out <- c.question
		if got := next(t, d); !bytes.Equal(got, c.question) {
			t.Errorf("%s: read %x, want %x", c.name, got, c.question)
		}
		write(t, d, c.answer)
		if c.inner {
			expect(t, c.name, c.answer, inner, one, two)
		} else {
			expect(t, c.name, c.answer, one, two, inner)
		}
	}

	fragment := ip(protoUDP, other, self, 100, make([]byte, 8))
	write(t, d, fragment)
	expect(t, "fragment", fragment, inner)
	expect(t, "fragment", fragment, one)
	expect(t, "fragment", fragment, two)

	answer := transport(protoTCP, at(other, 80), at(self, 20000))
	p1.Close()
	write(t, d, answer)
	expect(t, "its stack is gone", answer, two, one, inner)
}

// Without claims the inner stack has all that nobody asked for.
func TestWithoutClaims(t *testing.T) {
	inner := newFakeTun()
	d := New(inner, nil)
	defer d.Close()
	_, one := attach(t, d)
	syn := transport(protoTCP, at(other, 5000), at(self, 8080))
	write(t, d, syn)
	expect(t, "nobody's port", syn, inner, one)
	one.out <- transport(protoTCP, at(self, 8080), at(other, 5000))
	next(t, d)
	write(t, d, syn)
	expect(t, "a port that it has sent from", syn, one, inner)
	inner.out <- transport(protoTCP, at(self, 8080), at(other, 5000))
	next(t, d)
	write(t, d, syn)
	expect(t, "a port that the inner stack has sent from since", syn, inner, one)
}

// A flood of one stack holds up neither the others nor the inner one.
func TestTurns(t *testing.T) {
	inner := newFakeTun()
	d := New(inner, nil)
	defer d.Close()
	_, one := attach(t, d)
	for range 100 {
		one.out <- ip(100, self, other, 0, make([]byte, 8))
		inner.out <- ip(101, self, other, 0, make([]byte, 8))
	}
	bufs, sizes := make([][]byte, 8), make([]int, 8)
	for i := range bufs {
		bufs[i] = make([]byte, 2000)
	}
	for turn := range 10 {
		for len(d.queue) == 0 {
			runtime.Gosched()
		}
		n, err := d.Read(bufs, sizes, 16)
		if n == 0 || err != nil {
			t.Fatalf("Read: %d, %v", n, err)
		}
		if got, want := bufs[0][16+9], byte(100+turn%2); got != want {
			t.Errorf("turn %d: a packet of protocol %d, want %d", turn, got, want)
		}
	}
}

func TestReadWaits(t *testing.T) {
	inner := newFakeTun()
	d := New(inner, nil)
	defer d.Close()
	_, one := attach(t, d)
	for i := range 1000 {
		got := make(chan []byte)
		go func() { got <- next(t, d) }()
		want := ip(100, self, other, 0, binary.BigEndian.AppendUint64(nil, uint64(i)))
		if i%2 == 0 {
			one.out <- want
		} else {
			inner.out <- want
		}
		if b := <-got; !bytes.Equal(b, want) {
			t.Fatalf("%d: got %x, want %x", i, b, want)
		}
	}
}

func TestAttachAndClose(t *testing.T) {
	inner := newFakeTun()
	d := New(inner, nil)
	var ports []*Port
	var devices []*fakeTun
	seen := make(map[uint16]bool)
	for range maxPorts {
		p, dev := attach(t, d)
		ports, devices = append(ports, p), append(devices, dev)
		first, last := p.Range()
		if first < 1024 || last >= 32768 || last-first+1 != rangeSize || seen[first] {
			t.Errorf("ports %d to %d", first, last)
		}
		seen[first] = true
	}
	extra := newFakeTun()
	if _, err := d.Attach(extra); err == nil {
		t.Error("one more than there is room for was attached")
	}
	<-extra.closed
	ports[3].Close()
	ports[3].Close()
	<-devices[3].closed
	attach(t, d)
	devices[5].Close() // by itself: its namespace is gone
	<-ports[5].Done()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	for i, p := range ports {
		<-p.Done()
		<-devices[i].closed
	}
	<-inner.closed
	late := newFakeTun()
	if _, err := d.Attach(late); err == nil {
		t.Error("attached to a closed device")
	}
	<-late.closed
	if d.table.Load() != nil {
		t.Error("something is still attached")
	}
}

// Stacks come and go under traffic.
func TestUnderTraffic(t *testing.T) {
	inner := newFakeTun()
	d := New(inner, func(uint8, netip.AddrPort, netip.AddrPort) bool { return false })
	var tasks, writing sync.WaitGroup
	stop := make(chan struct{})
	tasks.Go(func() {
		bufs, sizes := [][]byte{make([]byte, 2000), make([]byte, 2000)}, make([]int, 2)
		for {
			if _, err := d.Read(bufs, sizes, 16); err != nil {
				return
			}
		}
	})
	writing.Go(func() {
		syn := transport(protoTCP, at(other, 5000), at(self, 8080))
		for {
			select {
			case <-stop:
				return
			case <-inner.in:
			default:
				write(t, d, syn, syn, syn)
			}
		}
	})
	for range 50 {
		p, dev := attach(t, d)
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			for {
				select {
				case <-dev.in:
				case <-dev.closed:
					return
				}
			}
		}()
		for i := range uint16(20) {
			dev.out <- transport(protoTCP, at(self, 20000+i), at(other, 80))
		}
		p.Close()
		<-drained
	}
	close(stop)
	writing.Wait()
	d.Close()
	tasks.Wait()
}

// What closed stacks have left fills the queue while nobody reads, and keeps none from closing.
func TestCloseUnread(t *testing.T) {
	inner := newFakeTun()
	d := New(inner, nil)
	syn := transport(protoTCP, at(self, 20000), at(other, 80))
	for range cap(d.queue) {
		p, dev := attach(t, d)
		before := len(d.queue)
		dev.out <- syn
		for len(d.queue) == before {
			runtime.Gosched()
		}
		p.Close()
	}
	_, dev := attach(t, d)
	dev.out <- syn
	for len(dev.out) > 0 {
		runtime.Gosched()
	}
	d.Close()
}

// lastWords is a device that has a packet more when it is closed.
type lastWords struct {
	*fakeTun
	packet  []byte
	reading chan struct{} // has something once Read is called
}

func (l lastWords) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case l.reading <- struct{}{}:
	default:
	}
	return l.fakeTun.Read(bufs, sizes, offset)
}

func (l lastWords) Close() error {
	l.out <- l.packet
	for len(l.out) > 0 {
		runtime.Gosched()
	}
	return l.fakeTun.Close()
}

// A stack that takes the place of another one owns nothing of that.
func TestLastWordsOwnNothing(t *testing.T) {
	inner := newFakeTun()
	d := New(inner, nil)
	attach(t, d) // so that there is something to own all the time
	dev := lastWords{newFakeTun(), transport(protoUDP, at(self, 20000), at(other, 53)), make(chan struct{}, 1)}
	p, err := d.Attach(dev)
	if err != nil {
		t.Fatal(err)
	}
	<-dev.reading
	p.Close()
	attach(t, d)
	want := transport(protoUDP, at(other, 53), at(self, 20000))
	write(t, d, want)
	select {
	case got := <-inner.in:
		if !bytes.Equal(got, want) {
			t.Errorf("got %x", got)
		}
	default:
		t.Error("the packet went to the new stack")
	}
	d.Close()
}

func TestNoAllocations(t *testing.T) {
	d := New(&sink{fakeTun: newFakeTun()}, nil)
	defer d.Close()
	attach(t, d)
	b := append(make([]byte, 16), transport(protoTCP, at(other, 5000), at(self, 8080))...)
	bufs := [][]byte{b, b, b, b}
	write := func() { d.Write(bufs, 16) }
	write()
	if n := testing.AllocsPerRun(1000, write); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// sink takes packets and forgets them.
type sink struct{ *fakeTun }

func (s *sink) Write(bufs [][]byte, _ int) (int, error) { return len(bufs), nil }

func FuzzParse(f *testing.F) {
	f.Add(transport(protoTCP, at(other, 5000), at(self, 8080)))
	f.Add(ip(protoUDP, peer6, self6, 1, make([]byte, 8)))
	f.Add(ip(protoICMP, other, self, 0, append([]byte{3, 4, 0, 0, 0, 0, 5, 0}, transport(protoTCP, at(self, 1), at(other, 2))...)))
	owned := new(owners)
	f.Fuzz(func(t *testing.T, b []byte) {
		p := parse(b)
		if p.inner && p.everyone {
			t.Error("for the inner stack alone, and for everyone")
		}
		owned.note(b, 1)
	})
}

func BenchmarkWrite(b *testing.B) {
	d := New(&sink{fakeTun: newFakeTun()}, nil)
	defer d.Close()
	packet := append(make([]byte, 16), transport(protoTCP, at(other, 5000), at(self, 8080))...)
	bufs := make([][]byte, 64)
	for i := range bufs {
		bufs[i] = packet
	}
	for _, attached := range []bool{false, true} {
		name := "alone"
		if attached {
			name = "attached"
			if _, err := d.Attach(newFakeTun()); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				d.Write(bufs, 16)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(bufs)), "ns/packet")
		})
	}
}
