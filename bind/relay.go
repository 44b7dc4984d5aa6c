package bind

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

const (
	// pumpQueue is what waits for one connection: two of WireGuard's batches, some 10 ms at 300 Mbit/s. Longer would be delay.
	pumpQueue = 256
	// relayQueue is what all connections together may have waiting for WireGuard.
	relayQueue = 1024
)

// relay receives for all connections (relayed pairs and TCP). It outlives the sockets: a connection that is up stays up while
// WireGuard reopens the bind. An ice.Conn takes a packet whose receiver index is STUN's cookie for STUN, and drops it at both ends: one
// session in 2^32 can't do with such a connection alone. If it begins there its handshake fails, and the next, 5 s later, has other indices.
//
//	Send -> link.send -> link.queue -> pump goroutine -> conn.Write
//	conn.Read -> reader goroutine -> relay.queue -> relay.receive (one of the ReceiveFuncs of Open)
type relay struct {
	queue *queue
	stats *counters
	wg    sync.WaitGroup
}

func newRelay(stats *counters) *relay {
	return &relay{queue: newQueue(relayQueue), stats: stats}
}

// receive returns the ReceiveFunc of one opening of the bind, which ends when closed is.
func (r *relay) receive(closed <-chan struct{}) conn.ReceiveFunc {
	var ps [batchSize]*packet
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		for {
			select {
			case <-closed:
				r.queue.wake() // the token may be meant for the next opening
				return 0, net.ErrClosed
			case <-r.queue.ready:
			}
			n := r.queue.pop(ps[:min(len(ps), len(bufs))])
			for i, p := range ps[:n] {
				sizes[i] = copy(bufs[i], p.data)
				eps[i] = p.peer
				p.free()
				ps[i] = nil
			}
			if n > 0 {
				return n, nil
			}
		}
	}
}

// link is one connection of one peer, with a goroutine for each direction. References are the paths that use it.
type link struct {
	relay *relay
	conn  net.Conn
	peer  *PeerEndpoint
	queue *queue

	done atomic.Bool // the reader has ended

	mu   sync.Mutex // guards refs
	refs int
}

func (r *relay) newLink(c net.Conn, e *PeerEndpoint) *link {
	l := &link{relay: r, conn: c, peer: e, queue: newQueue(pumpQueue), refs: 1}
	// An error means that the connection has no deadlines, as ice.Conn; then only its owner ends the reader.
	_ = c.SetReadDeadline(time.Time{})
	r.wg.Add(2)
	go l.pump()
	go l.read()
	return l
}

func (l *link) ended() bool { return l.done.Load() }

// acquire adds a reference, unless the link is ending.
func (l *link) acquire() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refs == 0 {
		return false
	}
	l.refs++
	return true
}

// release drops a reference; with the last one both goroutines end. A connection without deadlines keeps its reader until it is
// closed or something arrives.
func (l *link) release() {
	l.mu.Lock()
	l.refs--
	last := l.refs == 0
	l.mu.Unlock()
	if last {
		l.queue.close()
		_ = l.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// send queues copies of bufs and never waits.
func (l *link) send(bufs [][]byte) {
	var ps [batchSize]*packet
	for len(bufs) > 0 {
		n := min(len(bufs), len(ps))
		for i, b := range bufs[:n] {
			ps[i] = newPacket(b)
		}
		taken := l.queue.push(ps[:n]...)
		for _, p := range ps[taken:n] {
			p.free()
		}
		l.relay.stats.relaySendDrops.Add(uint64(n - taken))
		bufs = bufs[n:]
	}
}

// pump writes what send has queued, until the link is released or the connection is closed.
func (l *link) pump() {
	defer l.relay.wg.Done()
	var ps [64]*packet
	for {
		select {
		case <-l.queue.closed:
			return
		case <-l.queue.ready:
		}
		n := l.queue.pop(ps[:])
		for i, p := range ps[:n] {
			// An agent that has failed writes nothing and says so by the number alone.
			if w, err := l.conn.Write(p.data); err != nil || w == 0 {
				l.relay.stats.relaySendDrops.Add(1)
			}
			p.free()
			ps[i] = nil
		}
	}
}

// read hands what the connection brings to WireGuard. Only what has WireGuard's shape passes.
func (l *link) read() {
	defer l.relay.wg.Done()
	defer l.done.Store(true)
	buf := make([]byte, maxConnPacket)
	for {
		n, err := l.conn.Read(buf)
		if errors.Is(err, io.ErrShortBuffer) {
			continue // longer than any packet of a tunnel over this connection
		}
		if err != nil {
			return
		}
		if !isWireGuard(buf[:n]) {
			l.relay.stats.dropped.Add(1)
			continue
		}
		p := newPacket(buf[:n])
		p.peer = l.peer
		if l.relay.queue.push(p) == 0 {
			p.free()
			l.relay.stats.relayReceiveDrops.Add(1)
		}
		if l.released() {
			return // another link may be reading from the same connection, so that the packet was not to be lost
		}
	}
}

func (l *link) released() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refs == 0
}
