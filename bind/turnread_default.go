//go:build !linux || wice_portable

package bind

import "errors"

// turnReader reads for a TURN client's socket.
type turnReader struct {
	buf []byte
}

// next waits for a message that is the client's. It is valid until the next call. On the way it hands on WireGuard's packets.
func (r *turnReader) next(t *TURNSocket) ([]byte, error) {
	if r.buf == nil {
		r.buf = make([]byte, maxConnPacket+channelHeaderSize)
	}
	for {
		n, from, err := t.sock.conn.ReadFromUDPAddrPort(r.buf)
		cut := errors.Is(err, errTooLong) // Windows; anybody can send such a datagram, which must not end the client
		if err != nil && !cut {
			return nil, err
		}
		if cut || !t.fromServer(sourceOf(unmapPort(from))) {
			t.relay.stats.dropped.Add(1)
			continue
		}
		p, client := t.take(r.buf[:n])
		if client {
			return r.buf[:n], nil
		}
		if p != nil {
			t.deliver([]*packet{p})
		}
	}
}
