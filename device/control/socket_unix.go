//go:build !windows

package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxSocketPath is the length of sun_path less its final zero: 108 bytes on Linux, 104 elsewhere.
const maxSocketPath = 103

// Listen opens the control socket at path for its owner alone, and makes its directory if needed. A socket that nobody answers on
// is replaced. Errors wrap [ErrInUse] if a daemon does answer, and [ErrUntrusted] if others could replace the socket.
func Listen(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("open socket %s: the path is longer than the %d bytes that a socket's may have: set %s to a shorter one", path, maxSocketPath, SystemPaths().variable())
	}
	dir := filepath.Dir(path)
	if err := makeDir(dir); err != nil {
		return nil, fmt.Errorf("open socket %s: %w", path, err)
	}
	// Two daemons that start at once must not both take the same stale socket away: the directory is the lock.
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open socket %s: %w", path, err)
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("open socket %s: %w", path, err)
	}
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("open socket %s: %w", path, cause(err))
	}
	return &listener{UnixListener: l, path: path}, nil
}

// listen gives the socket its name when it answers: between bind and listen it refuses connections, and wg(8) removes a socket that does so.
// The caller has the lock of the directory.
func listen(path string) (*net.UnixListener, error) {
	unnamed := filepath.Join(filepath.Dir(path), ".new")
	if err := os.Remove(unnamed); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: unnamed, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(unnamed, 0o600); err == nil {
		err = os.Rename(unnamed, path)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(unnamed))
	}
	return l, nil
}

// Inherit takes over the socket at path that another process listens on, by its descriptor in this one. The file is the listener's to remove.
func Inherit(path string, fd int) (net.Listener, error) {
	file := os.NewFile(uintptr(fd), path)
	if file == nil {
		return nil, fmt.Errorf("socket of descriptor %d: not open", fd)
	}
	l, err := net.FileListener(file)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("socket of descriptor %d: %w", fd, err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("socket of descriptor %d: got one of %s, want a unix one", fd, l.Addr().Network()), l.Close())
	}
	u.SetUnlinkOnClose(false)
	return &listener{UnixListener: u, path: path}, nil
}

// makeDir makes the directory of a socket: open to look into for root, whose sockets others may see though not use.
func makeDir(dir string) error {
	mode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o755
	}
	if err := os.MkdirAll(filepath.Dir(dir), mode); err != nil {
		return err
	}
	if err := os.Mkdir(dir, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return checkDir(dir)
}

// checkDir refuses a directory in which another user than this one and root could put a socket of their own. Its parent counts as
// well, unless it has the sticky bit as /tmp does.
func checkDir(dir string) error {
	for _, d := range []string{dir, filepath.Dir(dir)} {
		info, err := os.Stat(d)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return fmt.Errorf("%s: not a directory", d)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			continue
		}
		owner, euid := int(st.Uid), os.Geteuid()
		if owner != 0 && owner != euid {
			return fmt.Errorf("%s: %w: its owner is the user %d, not %d: set %s to a directory of your own", d, ErrUntrusted, owner, euid, SystemPaths().variable())
		}
		if info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
			return fmt.Errorf("%s: %w: everyone may write to it (mode %04o): run \"chmod go-w %s\"", d, ErrUntrusted, info.Mode().Perm(), d)
		}
	}
	return nil
}

func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := retryInterrupted(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX) }); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

func retryInterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// removeStale makes room for a new socket unless a daemon is there.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("something else than a socket is there (%v): remove it", info.Mode().Type())
	}
	conn, err := net.DialTimeout("unix", path, dialTimeout)
	if err == nil {
		conn.Close()
		return ErrInUse
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrInUse, cause(err))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// listener accepts connections of the socket's owner and of root, whatever the file mode became since.
type listener struct {
	*net.UnixListener
	path string
	once sync.Once
	err  error
}

// Addr returns where to connect.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Accept waits for the next connection that is allowed.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if allowed(conn) {
			return conn, nil
		}
		conn.Close()
	}
}

// Close stops listening and removes the socket, unless another daemon has its own there by now. It is idempotent.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.err = l.UnixListener.Close()
		unlock, err := lockDir(filepath.Dir(l.path))
		if err != nil {
			return // the directory is gone, and the socket with it
		}
		defer unlock()
		if err := removeStale(l.path); err != nil && !errors.Is(err, ErrInUse) && l.err == nil {
			l.err = fmt.Errorf("remove control socket %s: %w", l.path, err)
		}
	})
	return l.err
}

// allowed reports whether the other end is the same user or root. Where the system can't tell, the file mode has to do.
func allowed(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var uid uint32
	var uidErr error
	if err := raw.Control(func(fd uintptr) { uid, uidErr = peerUID(int(fd)) }); err != nil {
		return false
	}
	if errors.Is(uidErr, errors.ErrUnsupported) {
		return true
	}
	return uidErr == nil && (uid == 0 || int(uid) == os.Geteuid())
}

// DialSocket connects to the control or UAPI socket at path. Errors wrap [ErrNotRunning] if there is none or nobody answers, and
// [ErrUntrusted] if another user could have put it there.
func DialSocket(ctx context.Context, path string) (net.Conn, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, fmt.Errorf("%w (there is no socket %s)", ErrNotRunning, path)
	}
	if err := checkDir(filepath.Dir(path)); errors.Is(err, ErrUntrusted) {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w (nobody answers on the socket %s)", ErrNotRunning, path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("connect to %s: %w: run this as the daemon's user or as root", path, fs.ErrPermission)
	}
	return nil, fmt.Errorf("connect to %s: %w", path, cause(err))
}

// cause leaves out what [net.OpError] repeats.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// listSockets returns the names of the interfaces that have a socket in dir, in no order. It is empty where there is no dir.
func listSockets(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), socketSuffix)
		if ok && ValidInterface(name) && e.Type()&fs.ModeSocket != 0 {
			names = append(names, name)
		}
	}
	return names, nil
}
