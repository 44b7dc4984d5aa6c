//go:build !wice_portable

package bind

import "time"

// turnReader reads for a TURN client's socket.
type turnReader struct {
	borrower
	batch [batchSize]*packet
}

// next waits for a message that is the client's. It is valid until the next call. On the way it hands on WireGuard's packets.
func (r *turnReader) next(t *TURNSocket) ([]byte, error) {
	for {
		if r.arena == nil {
			err := r.wait(t.sock)
			if r.errno != 0 {
				time.Sleep(minReceiveDelay) // the kernel is out of memory, say; an error would end the client
				continue
			}
			if err != nil {
				return nil, err
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
		r.release()
	}
}
