package bind

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pion/stun"
	"golang.zx2c4.com/wireguard/conn"
)

// load runs functions side by side, each a few times per beat, so that a thousand beats take the time of a thousand packets and not of as many as
// the machine can send.
type load struct {
	beats   []chan struct{}
	running sync.WaitGroup
	runs    atomic.Int64
}

// perBeat is how often a function runs in a beat.
const perBeat = 4

func (l *load) add(f func(i int)) {
	beat := make(chan struct{}, 1)
	l.beats = append(l.beats, beat)
	l.running.Go(func() {
		i := 0
		for range beat {
			for range perBeat {
				f(i)
				i++
			}
			l.runs.Add(perBeat)
		}
	})
}

// beat has every function run again. It does not wait for those that are behind.
func (l *load) beat() {
	for _, b := range l.beats {
		select {
		case b <- struct{}{}:
		default:
		}
	}
}

func (l *load) stop() {
	for _, b := range l.beats {
		close(b)
	}
	l.running.Wait()
}

// TestCyclesUnderLoad opens, closes and changes ports a thousand times while packets and STUN flow both ways, and paths, peers and
// connections of the mux come and go.
func TestCyclesUnderLoad(t *testing.T) {
	const cycles = 1000
	target := openBind(t, loopbackOnly)
	b := New(loopbackOnly)
	defer b.Shutdown()
	var l load
	bufs := [][]byte{transport(1000, 1), transport(1000, 2), transport(900, 3)}
	send := func(ep conn.Endpoint) {
		if err := b.Send(bufs, ep); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}

	// Senders: plain endpoints, and a peer whose path changes and that is removed.
	for _, to := range []netip.AddrPort{target.addr4(), target.addr6()} {
		ep := endpointTo(t, target, to)
		l.add(func(int) {
			send(ep)
			ep.ClearSrc()
		})
	}
	relayed, far := net.Pipe()
	defer relayed.Close()
	defer far.Close()
	for range 2 {
		l.add(func(int) { send(b.Peer(testKey(1))) })
	}
	l.add(func(i int) {
		peer := b.Peer(testKey(1))
		peer.SetWanted(func() {})
		for _, p := range []*Path{
			NewDirectPath(netip.Addr{}, target.addr4()),
			NewStaticPath(target.addr6()),
			NewConnPath(relayed, relayLocal, relayRemote),
			nil,
			NewDirectPath(netip.MustParseAddr("127.0.0.1"), target.addr4()),
		} {
			peer.SetPath(p)
			peer.FlushHeld()
		}
		if i%5 == 4 {
			b.RemovePeer(testKey(1))
		}
	})
	var piped sync.WaitGroup
	piped.Go(func() { io.Copy(io.Discard, far) })
	defer func() {
		relayed.Close()
		piped.Wait()
	}()

	// Packets to the bind, from sources of both kinds: the target's is sometimes that of the peer's path.
	l.add(func(int) {
		if p := b.Port(); p != 0 {
			for _, to := range []string{"127.0.0.1", "::1"} {
				target.Send(bufs, endpointTo(t, target, netip.AddrPortFrom(netip.MustParseAddr(to), p)))
			}
		}
	})

	// Settings.
	l.add(func(int) {
		if err := b.SetMark(0); err != nil && !errors.Is(err, os.ErrPermission) {
			t.Error(err)
		}
		b.ClearSources()
		b.Mux().GetListenAddresses()
		b.Stats()
	})

	// STUN: two agents that ask each other, and one that comes and goes.
	here := muxConnOf(t, &testBind{Bind: b}, "here", "127.0.0.1")
	there := muxConnOf(t, target, "there", "127.0.0.1")
	var asked [2]atomic.Int32
	var readers sync.WaitGroup
	for i, c := range []net.PacketConn{here, there} {
		readers.Go(func() {
			buf := make([]byte, 1500)
			for {
				if _, _, err := c.ReadFrom(buf); err != nil {
					return
				}
				asked[i].Add(1)
			}
		})
	}
	defer func() {
		here.Close()
		there.Close()
		readers.Wait()
	}()
	request := func(from, to string) []byte { return bindingRequest(t, stun.NewUsername(to+":"+from)) }
	l.add(func(int) {
		if _, err := here.WriteTo(request("here", "there"), localUDP(target, "127.0.0.1")); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if p := b.Port(); p != 0 {
			there.WriteTo(request("there", "here"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(p)})
		}
	})
	l.add(func(i int) {
		ufrag := fmt.Sprint("agent", i)
		c := muxConnOf(t, &testBind{Bind: b}, ufrag, "::1")
		c.WriteTo(request(ufrag, "nobody"), localUDP(target, "::1"))
		b.Mux().RemoveConnByUfrag(ufrag)
	})

	cycle := newCycler(b)
	port := uint16(0)
	for i := range cycles {
		l.beat()
		if i%3 == 0 {
			port = 0 // another one
		}
		received, actual, err := cycle.open(t, port)
		if errors.Is(err, syscall.EADDRINUSE) {
			received, actual, err = cycle.open(t, 0) // somebody else has it by now
		}
		if err != nil {
			t.Fatal(err)
		}
		port = actual
		l.beat()
		if err := target.Send(bufs, endpointTo(t, target, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))); err != nil {
			t.Error(err)
		}
		if i%10 == 0 {
			select {
			case <-received:
			case <-time.After(patience):
				t.Fatalf("cycle %d: nothing received within %v", i, patience)
			}
		}
		l.beat()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		cycle.receivers.Wait()
	}
	l.stop()
	t.Logf("%d cycles, %d runs of %d functions", cycles, l.runs.Load(), len(l.beats))
	if err := b.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	for i, who := range []string{"the bind", "the target"} {
		if asked[i].Load() == 0 {
			t.Errorf("%s has got no STUN", who)
		}
	}
	b.RemovePeer(testKey(1))
	if n := len(b.mux.conns); n != 1 || b.table.size != 0 || len(b.table.claims) != 0 {
		t.Errorf("left: %d fragments (want 1), %d nodes, %d claims (want none)", n, b.table.size, len(b.table.claims))
	}
}

// cycler receives from a bind that is opened again and again, into the same buffers.
type cycler struct {
	bind      *Bind
	receivers sync.WaitGroup
	bufs      [3][][]byte
}

func newCycler(b *Bind) *cycler {
	c := &cycler{bind: b}
	for i := range c.bufs {
		c.bufs[i], _, _ = newBatch(8)
	}
	return c
}

// open opens the bind and starts a goroutine for each ReceiveFunc, which ends when the bind is closed.
func (c *cycler) open(t *testing.T, port uint16) (received <-chan struct{}, actual uint16, err error) {
	fns, actual, err := c.bind.Open(port)
	if err != nil {
		return nil, 0, err
	}
	got := make(chan struct{}, 1)
	for i, fn := range fns {
		c.receivers.Go(func() {
			bufs := c.bufs[i]
			sizes, eps := make([]int, len(bufs)), make([]conn.Endpoint, len(bufs))
			for {
				if _, err := fn(bufs, sizes, eps); err != nil {
					if err != net.ErrClosed {
						t.Errorf("got %v, want net.ErrClosed", err)
					}
					return
				}
				select {
				case got <- struct{}{}:
				default:
				}
			}
		})
	}
	return got, actual, nil
}
