package device

import (
	"container/list"
	"net"
	"sync"
)

// maxUAPIConns bounds the open connections of the UAPI. Programs that keep one open for each of their threads stay far below.
const maxUAPIConns = 256

// connQueue has the open connections, the one that was silent for the longest time first. The zero value is empty.
type connQueue struct {
	mu    sync.Mutex // guards all following
	conns list.List  // of *queuedConn
}

// queuedConn moves to the end of its queue with what it receives.
type queuedConn struct {
	net.Conn
	queue *connQueue
	place *list.Element
}

// add closes the first connection if there are too many with the new one.
func (q *connQueue) add(c net.Conn) *queuedConn {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.conns.Len() >= maxUAPIConns {
		first := q.conns.Front()
		first.Value.(*queuedConn).Conn.Close()
		q.conns.Remove(first)
	}
	queued := &queuedConn{Conn: c, queue: q}
	queued.place = q.conns.PushBack(queued)
	return queued
}

// remove may be called for one that add has removed.
func (q *connQueue) remove(c *queuedConn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.conns.Remove(c.place)
}

func (c *queuedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.queue.mu.Lock()
		c.queue.conns.MoveToBack(c.place)
		c.queue.mu.Unlock()
	}
	return n, err
}
