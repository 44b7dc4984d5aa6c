package bind

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// markConn marks what the socket sends, with what FreeBSD has instead of SO_MARK.
func markConn(c syscall.RawConn, mark uint32) (err error) {
	cerr := c.Control(func(fd uintptr) {
		if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_USER_COOKIE, int(mark)); err != nil {
			err = fmt.Errorf("set SO_USER_COOKIE: %w", err)
		}
	})
	if cerr != nil {
		return cerr
	}
	return err
}
