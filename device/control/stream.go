package control

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// stream is a connection through the daemon after the request for it. Named pipes have no half-close and Unix sockets no reset, so each
// direction is a sequence of frames:
//
//	KIND LENGTH LENGTH DATA...     KIND: 00 data, or one datagram; 01 the end of this direction; 02 the text of an error, which is the end of both
//
// Reading and writing may go on at the same time, by one goroutine each; the other methods are safe for concurrent use.
type stream struct {
	net.Conn
	datagrams bool

	// Owned by the reader.
	in   *bufio.Reader
	left int    // bytes of the frame
	end  error  // nil: there is more
	last func() // called at the end of the reading direction; nil: nothing is

	mu     sync.Mutex // held for writing a frame; guards the following
	broken bool       // a frame was written in part
}

const (
	frameData  = 0
	frameEnd   = 1
	frameError = 2

	frameHeader  = 3      // bytes
	maxFrame     = 0xffff // bytes of data
	maxErrorText = 1024   // bytes

	// lastWord is how long the other end may take for the reason of the end.
	lastWord = time.Second
)

// errBroken says that the other end of a stream is gone without a word.
var errBroken = errors.New("the connection through the daemon broke off")

func newStream(c net.Conn, in *bufio.Reader, datagrams bool) *stream {
	return &stream{Conn: c, in: in, datagrams: datagrams}
}

// Read returns io.EOF at the end of the direction. Of a datagram that is longer than b the rest is lost, as with UDP; an empty one is skipped.
func (s *stream) Read(b []byte) (int, error) {
	for s.left == 0 && s.end == nil {
		if s.end = s.next(); s.end != nil && s.last != nil {
			s.last()
		}
	}
	if s.end != nil {
		return 0, s.end
	}
	want := b[:min(len(b), s.left)]
	if !s.datagrams {
		n, err := s.in.Read(want)
		s.left -= n
		return n, broken(err)
	}
	n, err := io.ReadFull(s.in, want)
	if err == nil {
		_, err = s.in.Discard(s.left - n)
	}
	s.left = 0
	return n, broken(err)
}

// next reads the head of a frame, and all of one without data.
func (s *stream) next() error {
	var head [frameHeader]byte
	if _, err := io.ReadFull(s.in, head[:]); err != nil {
		return broken(err)
	}
	length := int(binary.BigEndian.Uint16(head[1:]))
	switch {
	case head[0] == frameData:
		s.left = length
		return nil
	case head[0] == frameEnd && length == 0:
		return io.EOF
	case head[0] == frameError && length <= maxErrorText:
		text := make([]byte, length)
		if _, err := io.ReadFull(s.in, text); err != nil {
			return broken(err)
		}
		return errors.New(string(text))
	}
	return fmt.Errorf("not a frame of the daemon: kind %d, %d bytes", head[0], length)
}

// broken is the error of a stream that ends without the frame for it.
func broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errBroken
	}
	return err
}

func (s *stream) Write(b []byte) (int, error) {
	if s.datagrams && len(b) > maxFrame {
		return 0, fmt.Errorf("a datagram of %d bytes is longer than %d", len(b), maxFrame)
	}
	written := 0
	for written < len(b) || s.datagrams && written == 0 {
		part := b[written:min(len(b), written+maxFrame)]
		if err := s.frame(frameData, part); err != nil {
			return written, err
		}
		if written += len(part); s.datagrams {
			break
		}
	}
	return written, nil
}

func (s *stream) frame(kind byte, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.frameLocked(kind, data)
}

func (s *stream) frameLocked(kind byte, data []byte) error {
	if s.broken {
		return errBroken
	}
	head := binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(data)))
	buffers := net.Buffers{head, data}
	_, err := buffers.WriteTo(s.Conn)
	s.broken = err != nil
	return err
}

// CloseWrite ends the writing direction.
func (s *stream) CloseWrite() error { return s.frame(frameEnd, nil) }

// CloseWithError closes the stream, and tells the other end why, unless it doesn't listen.
func (s *stream) CloseWithError(why error) error {
	if !s.mu.TryLock() {
		s.SetWriteDeadline(time.Unix(1, 0)) // ends a frame that is stuck
		s.mu.Lock()
	}
	s.SetWriteDeadline(time.Now().Add(lastWord))
	text := why.Error()
	s.frameLocked(frameError, []byte(text[:min(len(text), maxErrorText)]))
	s.broken = true
	s.mu.Unlock()
	return s.Close()
}
