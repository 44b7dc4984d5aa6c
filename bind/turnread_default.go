//go:build !linux || wice_portable

package bind

import (
	"errors"
	"net"
	"os"
	"time"
)

// turnReader reads for a TURN client's socket.
type turnReader struct {
	buf   []byte
	batch [1]*packet
}

// next waits for a message that is the client's. It is valid until the next call. On the way it hands on WireGuard's packets.
func (r *turnReader) next(t *TURNSocket) ([]byte, error) {
	if r.buf == nil {
		r.buf = make([]byte, 1<<16)
	}
	for {
		n, from, err := t.sock.conn.ReadFromUDPAddrPort(r.buf)
		switch {
		case errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded):
			return nil, err
		case errors.Is(err, errTooLong): // Windows; anybody can send such a datagram
			t.relay.stats.dropped.Add(1)
			continue
		case err != nil:
			// Windows has one for the ICMP messages that earlier datagrams have caused. It would end the client.
			time.Sleep(receiveDelay)
			continue
		case n == 0:
			continue
		case !t.fromServer(t.sock.zones.source(unmapPort(from))):
			t.relay.stats.dropped.Add(1)
			continue
		}
		p, client := t.take(r.buf[:n])
		if client {
			return r.buf[:n], nil
		}
		if p != nil {
			r.batch[0] = p
			t.deliver(r.batch[:])
		}
	}
}
