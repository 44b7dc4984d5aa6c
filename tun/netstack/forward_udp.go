package netstack

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// udpIdle is how long a UDP sender keeps its socket without a datagram either way: twice what RFC 4787 asks of a NAT as a minimum.
	udpIdle = 4 * time.Minute

	// udpQueue is how many datagrams of a sender may wait, while its socket is made; more are dropped.
	udpQueue = 64

	// udpRetry is how long the datagrams of a sender are dropped after its target could not be reached.
	udpRetry = time.Second

	// dropLogPause is the time between two log lines about senders that are too many.
	dropLogPause = time.Minute

	maxUDP = 65535 // bytes of a datagram
)

// udpForward has the senders of one socket. Each has a socket of its own towards the target, as behind a NAT.
type udpForward struct {
	*Forwarding
	c net.PacketConn

	mu      sync.Mutex // guards the following
	senders map[string]*udpSender
	logged  time.Time // when it was last said that there are too many
}

type udpSender struct {
	key   string
	to    net.Addr
	queue chan []byte  // written to, without waiting, only while mu is held and the sender is in the table
	last  atomic.Int64 // when the last datagram went either way, in nanoseconds since 1970
}

func (s *udpSender) touch() { s.last.Store(time.Now().UnixNano()) }

// expiry is when the sender has been idle for too long.
func (s *udpSender) expiry(idle time.Duration) time.Time {
	return time.Unix(0, s.last.Load()).Add(idle)
}

// receiveUDP never waits for a target, so that one sender does not hold up another.
func (w *Forwarding) receiveUDP(c net.PacketConn) {
	u := &udpForward{Forwarding: w, c: c, senders: make(map[string]*udpSender)}
	var failing pause
	buf := make([]byte, maxUDP)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil { // on some systems that of an earlier answer, too
			if !failing.wait(w.ctx, err) {
				return
			}
			continue
		}
		failing = pause{}
		u.enqueue(from, append([]byte(nil), buf[:n]...))
	}
}

// enqueue hands a datagram to its sender, which is made if it is new. What does not fit is dropped.
func (u *udpForward) enqueue(from net.Addr, datagram []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.senders[from.String()]
	if s == nil {
		select {
		case u.slots <- struct{}{}:
		default:
			if now := time.Now(); now.Sub(u.logged) > dropLogPause {
				u.logged = now
				u.log.Warn("forward: too many senders, datagrams dropped", "most", cap(u.slots))
			}
			return
		}
		s = &udpSender{key: from.String(), to: from, queue: make(chan []byte, udpQueue)}
		u.senders[s.key] = s
		u.tasks.Go(func() {
			defer func() { <-u.slots }()
			u.serve(s)
		})
	}
	s.touch()
	select {
	case s.queue <- datagram:
	default:
	}
}

// forget takes a sender out of the table, unless another one has taken its place.
func (u *udpForward) forget(s *udpSender) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.senders[s.key] == s {
		delete(u.senders, s.key)
	}
}

// forgetIdle takes a sender out of the table if it has been idle for too long. No datagram can come in between.
func (u *udpForward) forgetIdle(s *udpSender) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Now().Before(s.expiry(u.udpIdle)) {
		return false
	}
	delete(u.senders, s.key)
	return true
}

// serve carries a sender's datagrams until it has been idle for too long, or the forward is closed.
func (u *udpForward) serve(s *udpSender) {
	ctx, cancel := context.WithTimeout(u.ctx, forwardDialTimeout)
	out, err := u.dial(ctx, "udp", u.forward.Target)
	cancel()
	if err != nil {
		if u.ctx.Err() == nil {
			u.log.Warn("forward: target not reached", "err", err)
		}
		select {
		case <-time.After(udpRetry):
		case <-u.ctx.Done():
		}
		u.forget(s)
		return
	}
	ended := make(chan struct{})
	var back sync.WaitGroup
	back.Go(func() {
		defer close(ended)
		u.answer(s, out)
	})
	for alive := true; alive; {
		select {
		case datagram := <-s.queue:
			out.Write(datagram) // an error is that of an earlier one, or as good as a loss on the way
		case <-ended:
			alive = false
		case <-u.ctx.Done():
			alive = false
		}
	}
	out.Close()
	back.Wait()
	u.forget(s)
}

// answer carries the datagrams of the target back, and returns when the sender has been idle for too long or out is closed.
func (u *udpForward) answer(s *udpSender, out net.Conn) {
	var failing pause
	buf := make([]byte, maxUDP)
	for {
		out.SetReadDeadline(s.expiry(u.udpIdle))
		n, err := out.Read(buf)
		if err == nil {
			failing = pause{}
			s.touch()
			u.c.WriteTo(buf[:n], s.to) // as above
			continue
		}
		if u.forgetIdle(s) {
			return
		}
		// A datagram went the other way meanwhile, or this is the refusal of one, which the next may not meet.
		if !timeout(err) && !failing.wait(u.ctx, err) {
			return
		}
	}
}

func timeout(err error) bool {
	t, ok := err.(net.Error)
	return ok && t.Timeout()
}
