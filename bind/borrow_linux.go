//go:build !wice_portable

package bind

import (
	"sync"

	"golang.org/x/sys/unix"
)

// arenas are lent to the sockets that have something to read, so that an idle one holds none.
var arenas = sync.Pool{New: func() any { return newArena() }}

// borrower reads from one socket into an arena that it has only while there is something in it. It belongs to one goroutine.
type borrower struct {
	arena *arena     // nil when it is used up
	errno unix.Errno // of the last system call, 0 if it did not fail
	call  func(fd uintptr) bool
}

// wait returns when there is an arena with something in it. An error is that of the system call, errno, or says that the socket is
// closed.
func (r *borrower) wait(s *socket) error {
	if r.call == nil {
		r.call = r.recvmmsg
	}
	r.errno = 0
	if err := s.raw.Read(r.call); err != nil {
		return err
	}
	if r.errno != 0 {
		return r.errno
	}
	return nil
}

// release gives the arena back.
func (r *borrower) release() {
	arenas.Put(r.arena)
	r.arena = nil
}

// recvmmsg borrows an arena for what there is, and reports false to be called again when the socket is readable.
func (r *borrower) recvmmsg(fd uintptr) bool {
	a := arenas.Get().(*arena)
	r.errno = a.fill(fd)
	if r.errno != 0 {
		arenas.Put(a)
		if r.errno == unix.EAGAIN {
			r.errno = 0
			return false
		}
		return true
	}
	r.arena = a
	return true
}
