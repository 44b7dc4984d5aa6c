package control

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// sendFile sends a byte, with the descriptor of a file.
func sendFile(c net.Conn, f *os.File) error {
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return errors.ErrUnsupported
	}
	raw, err := f.SyscallConn() // File.Fd would have it block
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Control(func(fd uintptr) {
		_, _, sendErr = conn.WriteMsgUnix([]byte{0}, unix.UnixRights(int(fd)), nil)
	})
	return errors.Join(err, sendErr)
}

// receiveFile receives a byte, and the file that comes with it.
func receiveFile(c net.Conn) (*os.File, error) {
	if limited, ok := c.(*limitedConn); ok {
		c = limited.Conn
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	control := make([]byte, unix.CmsgSpace(4)) // has room for two, for the sake of alignment
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), control)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			for _, fd := range fds {
				files = append(files, os.NewFile(uintptr(fd), "attached interface"))
			}
		}
	}
	if len(files) == 1 {
		return files[0], nil
	}
	for _, f := range files {
		f.Close()
	}
	return nil, fmt.Errorf("%d descriptors came from the client, want one", len(files))
}
