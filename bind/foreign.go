package bind

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
)

// minForeign is how many sockets are remembered before closed ones are looked for.
const minForeign = 32

// foreign are the sockets that are not the bind's and have its mark all the same. The zero value is ready for use.
type foreign struct {
	mu    sync.Mutex // guards the following
	mark  uint32
	conns []syscall.RawConn
	full  int // length at which the closed ones are dropped
}

// add marks a socket, and remembers it for marks to come.
func (f *foreign) add(c syscall.RawConn) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mark != 0 {
		if err := markConn(c, f.mark); err != nil {
			return err
		}
	}
	if len(f.conns) >= max(f.full, minForeign) {
		f.conns = slices.DeleteFunc(f.conns, func(c syscall.RawConn) bool { return c.Control(func(uintptr) {}) != nil })
		f.full = 2 * len(f.conns)
	}
	f.conns = append(f.conns, c)
	return nil
}

// setMark marks what all of them send from now on.
func (f *foreign) setMark(mark uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mark = mark
	var errs []error
	f.conns = slices.DeleteFunc(f.conns, func(c syscall.RawConn) bool {
		err := markConn(c, mark)
		if errors.Is(err, net.ErrClosed) {
			return true
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("mark other sockets with %#x: %w", mark, err))
		}
		return false
	})
	return errors.Join(errs...)
}
