package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/libp2p/go-libp2p/core/protocol"
)

// The stream protocols.
const (
	SignalProtocol     protocol.ID = "/wice/signal/1.0.0"
	ICEServersProtocol protocol.ID = "/wice/ice-servers/1.0.0"

	// DHTPrefix keeps this DHT apart from every other one: no foreign node can enter a routing table.
	DHTPrefix protocol.ID = "/wice"
)

// Ack is the byte that says that an envelope was taken.
const Ack byte = 1

// ErrFrame says that a frame is empty or longer than it may be.
var ErrFrame = errors.New("bad frame length")

// WriteFrame writes a length and the bytes in one call, so that they leave in one packet. It refuses more than limit bytes.
func WriteFrame(w io.Writer, b []byte, limit int) error {
	if len(b) == 0 || len(b) > limit {
		return fmt.Errorf("write %d bytes: %w (1 to %d)", len(b), ErrFrame, limit)
	}
	buf := make([]byte, 0, 4+len(b))
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(b)))
	_, err := w.Write(append(buf, b...))
	return err
}

// ReadFrame reads what [WriteFrame] wrote. A length above the limit is refused before anything is allocated for it.
func ReadFrame(r io.Reader, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || uint64(n) > uint64(limit) {
		return nil, fmt.Errorf("read %d bytes: %w (1 to %d)", n, ErrFrame, limit)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}
