package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"golang.org/x/sys/windows"
	"golang.zx2c4.com/wireguard/ipc/namedpipe"
)

// Who may use the pipes: for elevated daemons the system and administrators, as with WireGuard's; otherwise the owner as well.
const (
	elevatedDescriptor = "O:SYD:P(A;;GA;;;SY)(A;;GA;;;BA)S:(ML;;NWNRNX;;;HI)"
	ownerDescriptor    = "D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GA;;;OW)"
)

// Listen opens the named pipe at path for its owner and administrators. The error wraps [ErrInUse] if the pipe exists: pipes end
// with their process, so a daemon is there.
func Listen(path string) (net.Listener, error) {
	descriptor := ownerDescriptor
	if strings.HasPrefix(path, protectedPipes) {
		descriptor = elevatedDescriptor
	}
	sd, err := windows.SecurityDescriptorFromString(descriptor)
	if err != nil {
		return nil, fmt.Errorf("open control pipe %s: %w", path, err)
	}
	l, err := (&namedpipe.ListenConfig{SecurityDescriptor: sd}).Listen(path)
	switch {
	case err == nil:
		return l, nil
	case pipeExists(path):
		return nil, fmt.Errorf("open control pipe %s: %w", path, ErrInUse)
	}
	return nil, fmt.Errorf("open control pipe %s: %w", path, err)
}

func pipeExists(path string) bool {
	conn, err := DialSocket(context.Background(), path)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// DialSocket connects to the control or UAPI pipe at path. The error wraps [ErrNotRunning] if there is none.
func DialSocket(ctx context.Context, path string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := namedpipe.DialContext(ctx, path)
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, windows.ERROR_FILE_NOT_FOUND), errors.Is(err, windows.ERROR_PATH_NOT_FOUND):
		return nil, fmt.Errorf("%w (there is no pipe %s)", ErrNotRunning, path)
	}
	return nil, fmt.Errorf("connect to %s: %w", path, err)
}

// listSockets returns the names of the interfaces that have a pipe with the prefix dir, in no order.
func listSockets(dir string) ([]string, error) {
	pattern, err := windows.UTF16PtrFromString(`\\.\pipe\*`)
	if err != nil {
		return nil, err
	}
	var data windows.Win32finddata
	h, err := windows.FindFirstFile(pattern, &data)
	if err != nil {
		return nil, fmt.Errorf("list pipes: %w", err)
	}
	defer windows.FindClose(h)
	prefix := strings.TrimPrefix(dir, pipes)
	var names []string
	for ; err == nil; err = windows.FindNextFile(h, &data) {
		name, ok := strings.CutPrefix(windows.UTF16ToString(data.FileName[:]), prefix)
		if ok && ValidInterface(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// Inherit is not supported here: a pipe has no descriptor to be handed on.
func Inherit(path string, _ int) (net.Listener, error) {
	return nil, fmt.Errorf("inherit %s: %w", path, errors.ErrUnsupported)
}
