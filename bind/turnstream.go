package bind

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
)

const (
	// streamQueue is what may wait to be written, in bytes: 20 ms at 100 Mbit/s. Longer would be delay.
	streamQueue = 256 << 10
	// clientRoom is left to the client when packets fill the queue: what it loses ends a path that works.
	clientRoom = 16 << 10
	// streamRead is what one read takes at most.
	streamRead = 64 << 10
	// maxStreamMessage is the longest message of a server: a STUN message or ChannelData of 65535 bytes, with header and padding.
	maxStreamMessage = stunHeaderSize + 1<<16
)

// TURNStream is a TURN client's connection to its server over TCP or TLS, and a [Carrier]. The client writes whole messages to it and reads
// such from it.
//
//	Write, carry -> queue of bytes -> goroutine -> one write for all that waited
//	read of up to 64 KiB -> messages -> shared queue, or the client's Read
//
// Nobody who writes waits for the network. What the queue has no room for is dropped whole, as by a network: STUN repeats its messages, and
// WireGuard does not care. Only one goroutine may call Read; all other methods are safe for concurrent use.
type TURNStream struct {
	carrier
	net.Conn

	in      []byte // read, not handed out yet
	buf     []byte
	rest    []byte // of a message that Read had no room for
	batch   [batchSize]*packet
	written chan struct{} // closed when the writer has ended

	mu     sync.Mutex // guards the following
	work   sync.Cond
	out    []byte
	closed bool
}

var _ Carrier = (*TURNStream)(nil)

// NewTURNStream takes over a connection to a TURN server. Close ends its goroutine.
func (b *Bind) NewTURNStream(c net.Conn) *TURNStream {
	s := &TURNStream{carrier: carrier{relay: b.relay}, Conn: c, written: make(chan struct{})}
	s.work.L = &s.mu
	go s.write()
	return s
}

// Write queues a message of the client.
func (s *TURNStream) Write(b []byte) (int, error) {
	s.channels.sent(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	if !s.roomLocked(len(b) - clientRoom) {
		s.relay.stats.relaySendDrops.Add(1)
		return len(b), nil
	}
	s.out = append(s.out, b...)
	if len(b) > 0 && b[0]&0xc0 == 0x40 {
		s.padLocked(len(b))
	}
	s.work.Signal()
	return len(b), nil
}

// carry implements [Carrier].
func (s *TURNStream) carry(bufs [][]byte, peer netip.AddrPort) bool {
	number := s.channels.number(peer)
	if number == 0 {
		return false
	}
	dropped := 0
	s.mu.Lock()
	for _, b := range bufs {
		if s.closed || !s.roomLocked(channelHeaderSize+len(b)) {
			dropped++
			continue
		}
		s.out = appendChannelData(s.out, number, b)
		s.padLocked(len(b))
	}
	s.work.Signal()
	s.mu.Unlock()
	if dropped > 0 {
		s.relay.stats.relaySendDrops.Add(uint64(dropped))
	}
	return true
}

// roomLocked reports whether a message of n bytes fits.
func (s *TURNStream) roomLocked(n int) bool { return len(s.out)+n+channelPadding <= streamQueue }

// padLocked fills up a message of n bytes.
func (s *TURNStream) padLocked(n int) {
	var zeros [channelPadding]byte
	s.out = append(s.out, zeros[:-n&(channelPadding-1)]...)
}

// write empties the queue until the stream is closed.
func (s *TURNStream) write() {
	defer close(s.written)
	var b []byte
	for {
		s.mu.Lock()
		for len(s.out) == 0 && !s.closed {
			s.work.Wait()
		}
		if s.closed {
			s.mu.Unlock()
			return
		}
		b, s.out = s.out, b[:0]
		s.mu.Unlock()
		if _, err := s.Conn.Write(b); err != nil {
			s.shut() // Read tells the client
			return
		}
	}
}

func (s *TURNStream) shut() {
	s.mu.Lock()
	s.closed = true
	s.work.Signal()
	s.mu.Unlock()
	s.Conn.Close()
}

// Close closes the connection, and waits for the goroutine. It is idempotent.
func (s *TURNStream) Close() error {
	s.shut()
	<-s.written
	return nil
}

// Read waits for the next message of the server for the client and copies as much of it to b as fits; the next call goes on. Packets of
// WireGuard go where they belong. A stream that is out of step is an error, as no message can be found in it any more. An error ends
// the stream, so that who writes is told.
func (s *TURNStream) Read(b []byte) (int, error) {
	for len(s.rest) == 0 {
		m, err := s.next()
		if err == nil && m == nil {
			err = s.fill()
		}
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				s.shut()
			}
			return 0, err
		}
		s.rest = m
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// next returns the next message that was read for the client, nil if there is none.
func (s *TURNStream) next() ([]byte, error) {
	n := 0
	defer func() { s.deliver(s.batch[:n]) }()
	for {
		size, err := streamMessage(s.in)
		if err != nil {
			return nil, fmt.Errorf("TURN server %s: %w", s.RemoteAddr(), err)
		}
		if size == 0 || size > len(s.in) {
			return nil, nil
		}
		m := s.in[:size]
		s.in = s.in[size:]
		p, client := s.take(m)
		if client {
			return m, nil
		}
		if p == nil {
			continue
		}
		s.batch[n] = p
		if n++; n == len(s.batch) {
			s.deliver(s.batch[:n])
			n = 0
		}
	}
}

// fill reads more, behind what is left of a message.
func (s *TURNStream) fill() error {
	if s.buf == nil {
		s.buf = make([]byte, maxStreamMessage+streamRead)
	}
	have := copy(s.buf, s.in)
	n, err := s.Conn.Read(s.buf[have:min(have+streamRead, len(s.buf))])
	s.in = s.buf[:have+n]
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// streamMessage returns the length in bytes of the message that b begins with, 0 if b is too short to tell.
func streamMessage(b []byte) (int, error) {
	if len(b) < channelHeaderSize {
		return 0, nil
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	switch {
	case b[0]&0xc0 == 0x40:
		return channelHeaderSize + n + -n&(channelPadding-1), nil
	case b[0]&0xc0 != 0 || n%4 != 0:
		return 0, fmt.Errorf("neither STUN nor ChannelData: % x", b[:channelHeaderSize])
	case len(b) >= 8 && binary.BigEndian.Uint32(b[4:]) != stunCookie:
		return 0, fmt.Errorf("no STUN: % x", b[:8])
	}
	return stunHeaderSize + n, nil
}
