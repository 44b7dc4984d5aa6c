//go:build !wice_portable

package bind

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// arenas are lent to the sockets that have something to read, so that an idle relay holds none.
var arenas = sync.Pool{New: func() any { return newArena() }}

// turnReader reads for a TURN client's socket.
type turnReader struct {
	arena *arena // nil when it is used up
	errno unix.Errno
	call  func(fd uintptr) bool
	batch [batchSize]*packet
}

// next waits for a message that is the client's. It is valid until the next call. On the way it hands on WireGuard's packets.
func (r *turnReader) next(t *TURNSocket) ([]byte, error) {
	if r.call == nil {
		r.call = r.recvmmsg
	}
	for {
		if r.arena == nil {
			if err := t.sock.raw.Read(r.call); err != nil {
				return nil, err
			}
			if r.errno != 0 {
				time.Sleep(minReceiveDelay) // the kernel is out of memory, say; an error would end the client
				continue
			}
		}
		n := 0
		for {
			b := r.arena.next(t.relay.stats)
			if b == nil {
				break
			}
			if !t.fromServer(r.arena.from.source) {
				t.relay.stats.dropped.Add(1)
				continue
			}
			p, client := t.take(b)
			if client {
				t.deliver(r.batch[:n])
				return b, nil
			}
			if p == nil {
				continue
			}
			r.batch[n] = p
			if n++; n == len(r.batch) {
				t.deliver(r.batch[:n])
				n = 0
			}
		}
		t.deliver(r.batch[:n])
		arenas.Put(r.arena)
		r.arena = nil
	}
}

// recvmmsg borrows an arena for what there is, and reports false to be called again when the socket is readable.
func (r *turnReader) recvmmsg(fd uintptr) bool {
	a := arenas.Get().(*arena)
	r.errno = a.fill(fd)
	if r.errno != 0 {
		arenas.Put(a)
		return r.errno != unix.EAGAIN
	}
	r.arena = a
	return true
}
