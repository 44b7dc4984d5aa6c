package bench

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/turn/v4"
	"golang.org/x/net/ipv4"
)

const (
	// rawSize is the payload of a packet: a full one of a tunnel with an MTU of 1420.
	rawSize = 1452
	// rawBatch is how many packets one system call receives at most.
	rawBatch = 64
	// rawTimeout is when packets on the way count as lost: many times what coturn needs for one.
	rawTimeout = 5 * time.Millisecond
)

// rawWindows are the numbers of packets on the way that are tried in turn: too few leave coturn idle, too many overrun its sockets and take
// its time away. The last is no bound at all.
var rawWindows = []int64{32, 128, 512, math.MaxInt64 / 2}

// rawRelay is the two clients of a relay with no tunnel on top. What gets through is the most that any tunnel could get through.
type rawRelay struct{ clients [2]*rawClient }

// rawClient is one client: pion's, which keeps the allocation, above a socket of which the data takes a shorter way.
//
//	out: ChannelData, framed once -> sendmmsg
//	in: recvmmsg -> ChannelData is counted, and the rest goes to pion
type rawClient struct {
	*net.UDPConn // what pion reads and writes, but for the two methods below
	batch        *ipv4.PacketConn
	server       *net.UDPAddr
	relayed      net.PacketConn

	bound    chan uint16 // the channel, once the server has confirmed it
	packet   []byte      // the ChannelData message that blast repeats
	received atomic.Int64
	arrival  chan struct{} // has a token when something was received

	// Owned by the goroutine that reads.
	in    []ipv4.Message
	ready []ipv4.Message // received and not looked at

	mu       sync.Mutex        // guards the following
	requests map[string]uint16 // channels asked for, by transaction
}

// startRaw makes both clients and a channel from each to the other.
func startRaw(p *pair) {
	p.t.Helper()
	p.raw = new(rawRelay)
	for i, e := range p.ends {
		p.raw.clients[i] = newRawClient(e, p)
	}
	for i, c := range p.raw.clients {
		// The first packet to an address asks for a permission, and in the background for a channel.
		if _, err := c.relayed.WriteTo([]byte("hello"), p.raw.clients[1-i].relayed.LocalAddr()); err != nil {
			p.t.Fatalf("%v: %v\n%s", p.variant, err, p.turn.Log())
		}
	}
	for i, c := range p.raw.clients {
		select {
		case channel := <-c.bound:
			c.packet = channelData(channel, rawSize)
		case <-time.After(patience):
			p.t.Fatalf("%v: coturn has bound no channel within %v\n%s", p.variant, patience, p.turn.Log())
		}
		at := c.relayed.LocalAddr().(*net.UDPAddr).AddrPort()
		p.ends[i].path = func() (string, error) {
			if at.Addr().Unmap() != p.turn.Addr4 {
				return "", fmt.Errorf("the client's relayed address is %v, want one of %v", at, p.turn.Addr4)
			}
			return fmt.Sprintf("relay %v", at), nil
		}
	}
}

func newRawClient(e *end, p *pair) *rawClient {
	e.t.Helper()
	c := &rawClient{bound: make(chan uint16, 1), arrival: make(chan struct{}, 1), requests: make(map[string]uint16),
		server: net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.turn.Addr4, p.turn.Port))}
	err := e.host.Do(func() (err error) {
		c.UDPConn, err = net.ListenUDP("udp4", nil)
		return err
	})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { c.Close() })
	if err := c.SetReadBuffer(4 << 20); err != nil {
		e.t.Fatal(err)
	}
	c.batch = ipv4.NewPacketConn(c.UDPConn)
	for range rawBatch {
		c.in = append(c.in, ipv4.Message{Buffers: [][]byte{make([]byte, 2048)}})
	}
	client, err := turn.NewClient(&turn.ClientConfig{TURNServerAddr: c.server.String(), Conn: c, Username: p.turn.Username, Password: p.turn.Password, Realm: "natlab"})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(client.Close)
	if err := client.Listen(); err != nil {
		e.t.Fatal(err)
	}
	if c.relayed, err = client.Allocate(); err != nil {
		e.t.Fatalf("allocate: %v\n%s", err, p.turn.Log())
	}
	e.t.Cleanup(func() { c.relayed.Close() })
	return c
}

// STUN's header and TURN's messages and attributes, RFC 8489 section 5 and RFC 8656 sections 12, 17 and 18.
const (
	stunHeader         = 20
	typeChannelBind    = 0x0009
	typeChannelBound   = 0x0109
	attrChannelNumber  = 0x000c
	minChannel         = 0x4000
	maxChannel         = 0x4fff
	channelDataHeader  = 4
	transactionOffset  = 8
	attributeHeaderLen = 4
)

// channelData frames as many zeros.
func channelData(channel uint16, size int) []byte {
	b := binary.BigEndian.AppendUint16(nil, channel)
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	return append(b, make([]byte, size)...)
}

// channelOf returns the number in a request for a channel; false for any other packet.
func channelOf(b []byte) (uint16, bool) {
	if len(b) < stunHeader || binary.BigEndian.Uint16(b) != typeChannelBind {
		return 0, false
	}
	for a := b[stunHeader:]; len(a) >= attributeHeaderLen+2; {
		if binary.BigEndian.Uint16(a) == attrChannelNumber {
			return binary.BigEndian.Uint16(a[attributeHeaderLen:]), true
		}
		a = a[min(len(a), attributeHeaderLen+(int(binary.BigEndian.Uint16(a[2:]))+3)&^3):]
	}
	return 0, false
}

// WriteTo notes which channel pion asks for.
func (c *rawClient) WriteTo(b []byte, to net.Addr) (int, error) {
	if channel, ok := channelOf(b); ok {
		c.mu.Lock()
		c.requests[string(b[transactionOffset:stunHeader])] = channel
		c.mu.Unlock()
	}
	return c.UDPConn.WriteTo(b, to)
}

// ReadFrom returns what is no data. Only pion's one goroutine calls it.
func (c *rawClient) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		for len(c.ready) > 0 {
			m := c.ready[0]
			c.ready = c.ready[1:]
			packet := m.Buffers[0][:m.N]
			if len(packet) < channelDataHeader {
				continue
			}
			switch kind := binary.BigEndian.Uint16(packet); {
			case kind >= minChannel && kind <= maxChannel:
				c.received.Add(int64(binary.BigEndian.Uint16(packet[2:])))
				continue
			case kind == typeChannelBound && len(packet) >= stunHeader:
				c.mu.Lock()
				channel, ok := c.requests[string(packet[transactionOffset:stunHeader])]
				c.mu.Unlock()
				if ok {
					select {
					case c.bound <- channel:
					default: // a refresh
					}
				}
			}
			return copy(b, packet), m.Addr, nil
		}
		select {
		case c.arrival <- struct{}{}: // what came last is counted
		default:
		}
		n, err := c.batch.ReadBatch(c.in, 0)
		if err != nil {
			return 0, nil, err
		}
		c.ready = c.in[:n]
	}
}

// blast sends as much as gets through, and returns how many bytes arrived and the best rate in bits per second. Each window of packets on
// the way has its part of the time.
func (r *rawRelay) blast(t testing.TB, from, to int, d time.Duration) (bytes int64, best float64) {
	t.Helper()
	for _, window := range rawWindows {
		n, took, err := r.clients[from].send(r.clients[to], window, d/time.Duration(len(rawWindows)))
		if err != nil {
			t.Fatalf("send to coturn: %v", err)
		}
		rate := float64(8*n) / took.Seconds()
		t.Logf("at most %d packets on the way: %s Mbit/s", window, short(rate/1e6))
		bytes += n
		best = max(best, rate)
	}
	return bytes, best
}

// send keeps so many packets on the way to the other client, and returns how many bytes arrived in which time. It counts in bytes that
// arrived, so that what the relay or a socket drops does not stop it for longer than rawTimeout.
func (c *rawClient) send(to *rawClient, window int64, d time.Duration) (int64, time.Duration, error) {
	batch := max(1, min(window/4, rawBatch))
	out := make([]ipv4.Message, batch)
	for i := range out {
		out[i] = ipv4.Message{Buffers: [][]byte{c.packet}, Addr: c.server}
	}
	timeout := time.NewTimer(rawTimeout)
	defer timeout.Stop()
	first, begin := to.received.Load(), time.Now()
	base, sent := first, int64(0) // what arrived and what was sent since the last loss
	for time.Since(begin) < d {
		if underway := sent - (to.received.Load()-base)/rawSize; underway+batch > window {
			timeout.Reset(rawTimeout)
			select {
			case <-to.arrival:
			case <-timeout.C:
				base, sent = to.received.Load(), 0
			}
			continue
		}
		n, err := c.batch.WriteBatch(out, 0)
		if err != nil {
			return 0, 0, err
		}
		sent += int64(n)
	}
	return to.received.Load() - first, time.Since(begin), nil
}
