package proto

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"
)

// Timestamp is a TAI64N label: 8 bytes of seconds and 4 of nanoseconds, big-endian. Like WireGuard, which uses the same in its
// handshake, we ignore leap seconds: only the order counts. The zero value is before every time.
type Timestamp [12]byte

const (
	taiBase     = 1<<62 + 10 // the label of 1970-01-01 00:00:00 UTC
	nanoseconds = 1_000_000_000
)

// TimestampOf returns the label of t. Times before 1970 have the label of 1970.
func TimestampOf(t time.Time) (ts Timestamp) {
	if t.Unix() < 0 {
		t = time.Unix(0, 0)
	}
	binary.BigEndian.PutUint64(ts[:8], taiBase+uint64(t.Unix()))
	binary.BigEndian.PutUint32(ts[8:], uint32(t.Nanosecond()))
	return ts
}

// Compare orders labels by time: it is negative if ts is before o.
func (ts Timestamp) Compare(o Timestamp) int { return bytes.Compare(ts[:], o[:]) }

// IsZero reports whether ts is no label at all.
func (ts Timestamp) IsZero() bool { return ts == Timestamp{} }

// Next returns the label one nanosecond later.
func (ts Timestamp) Next() Timestamp {
	s, n := binary.BigEndian.Uint64(ts[:8]), binary.BigEndian.Uint32(ts[8:])+1
	if n >= nanoseconds {
		s, n = s+1, 0
	}
	binary.BigEndian.PutUint64(ts[:8], s)
	binary.BigEndian.PutUint32(ts[8:], n)
	return ts
}

// Time returns the time that ts labels; the zero time if it is no valid label.
func (ts Timestamp) Time() time.Time {
	if ts.Validate() != nil {
		return time.Time{}
	}
	return time.Unix(int64(binary.BigEndian.Uint64(ts[:8])-taiBase), int64(binary.BigEndian.Uint32(ts[8:])))
}

// Validate reports why ts is no label of a time between 1970 and the end of TAI64.
func (ts Timestamp) Validate() error {
	if s := binary.BigEndian.Uint64(ts[:8]); s < taiBase || s >= 1<<63 {
		return fmt.Errorf("timestamp: %x is not a TAI64N label of a time since 1970", ts[:])
	}
	if n := binary.BigEndian.Uint32(ts[8:]); n >= nanoseconds {
		return fmt.Errorf("timestamp: %d nanoseconds make more than a second", n)
	}
	return nil
}
