package bind

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

func setMark(fd int, mark uint32) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
		return fmt.Errorf("set SO_MARK (it needs CAP_NET_ADMIN): %w", err)
	}
	return nil
}

// markConn marks what the socket sends.
func markConn(c syscall.RawConn, mark uint32) (err error) {
	if cerr := c.Control(func(fd uintptr) { err = setMark(int(fd), mark) }); cerr != nil {
		return cerr
	}
	return err
}
