package bind

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/wice-go/wice-go/proto/key"
	"go.uber.org/goleak"
	"golang.zx2c4.com/wireguard/conn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// arrival is a packet as a ReceiveFunc returned it.
type arrival struct {
	data []byte
	ep   conn.Endpoint
}

// patience is for what takes a millisecond on an idle machine.
const patience = 30 * time.Second

// testBind is an open bind with a goroutine for each ReceiveFunc.
type testBind struct {
	*Bind
	port uint16
	got  chan arrival
}

// openBind returns a bind on any port that is shut down with the test.
func openBind(t testing.TB, o Options) *testBind {
	t.Helper()
	b := &testBind{Bind: New(o), got: make(chan arrival, 4096)}
	b.start(t, 0)
	t.Cleanup(func() { b.Shutdown() })
	return b
}

func (b *testBind) start(t testing.TB, port uint16) {
	t.Helper()
	fns, actual, err := b.Open(port)
	if err != nil {
		t.Fatal(err)
	}
	b.port = actual
	done := make(chan error, len(fns))
	for _, fn := range fns {
		go func() { done <- b.loop(fn) }()
	}
	t.Cleanup(func() {
		b.Close()
		for range fns {
			if err := <-done; err != net.ErrClosed {
				t.Errorf("ReceiveFunc after Close: got %v, want net.ErrClosed", err)
			}
		}
	})
}

func (b *testBind) loop(fn conn.ReceiveFunc) error {
	bufs, sizes, eps := newBatch(b.BatchSize())
	for {
		n, err := fn(bufs, sizes, eps)
		if err != nil {
			return err
		}
		for i := range n {
			if sizes[i] > 0 {
				select {
				case b.got <- arrival{data: append([]byte(nil), bufs[i][:sizes[i]]...), ep: eps[i]}:
				default: // the test does not look
				}
			}
		}
	}
}

// next waits for a packet.
func (b *testBind) next(t testing.TB) arrival {
	t.Helper()
	select {
	case a := <-b.got:
		return a
	case <-time.After(patience):
		t.Fatalf("no packet within %v", patience)
		panic("unreachable")
	}
}

func (b *testBind) addr4() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.port)
}
func (b *testBind) addr6() netip.AddrPort { return netip.AddrPortFrom(netip.IPv6Loopback(), b.port) }

func newBatch(n int) ([][]byte, []int, []conn.Endpoint) {
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16)
	}
	return bufs, make([]int, n), make([]conn.Endpoint, n)
}

// transport returns a packet of WireGuard's shape that carries a number.
func transport(size int, n uint32) []byte {
	b := make([]byte, size)
	b[0] = typeTransport
	binary.LittleEndian.PutUint32(b[16:], n)
	return b
}

func number(b []byte) uint32 { return binary.LittleEndian.Uint32(b[16:]) }

// endpointTo returns a plain endpoint.
func endpointTo(t testing.TB, b *testBind, ap netip.AddrPort) conn.Endpoint {
	t.Helper()
	ep, err := b.ParseEndpoint(ap.String())
	if err != nil {
		t.Fatal(err)
	}
	return ep
}

// udpConn is a foreign socket on loopback.
func udpConn(t testing.TB, addr string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func testKey(n byte) (k key.Public) {
	k[0] = n
	return k
}
