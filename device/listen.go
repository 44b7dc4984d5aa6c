//go:build unix

package device

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// ErrSocketInUse says that another process serves an interface of this name.
var ErrSocketInUse = errors.New("a daemon for this interface is running already")

// UAPIListener is WireGuard's configuration socket. Its Accept fails with [net.ErrClosed] once the socket is closed or its file is
// removed: removing it is how WireGuard's tools stop a daemon.
type UAPIListener struct {
	net.Listener
	path    string
	watcher *fsnotify.Watcher
	closing sync.Once
	watch   sync.WaitGroup
}

// ListenUAPI makes the socket at path, for the user alone, and its directory where there is none. A socket that nobody serves is
// replaced; one that is served gives [ErrSocketInUse].
func ListenUAPI(path string) (*UAPIListener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the UAPI socket: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("UAPI socket %s: %w", path, ErrSocketInUse)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove a stale UAPI socket: %w", err)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch for the removal of %s: %w", path, err)
	}
	old := unix.Umask(0o077)
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		watcher.Close()
		return nil, fmt.Errorf("listen on the UAPI socket: %w", err)
	}
	u := &UAPIListener{Listener: l, path: path, watcher: watcher}
	if err := watcher.Add(dir); err != nil {
		u.Close()
		return nil, fmt.Errorf("watch for the removal of %s: %w", path, err)
	}
	u.watch.Go(u.closeOnRemoval)
	return u, nil
}

func (u *UAPIListener) closeOnRemoval() {
	for {
		if _, err := os.Lstat(u.path); err != nil {
			u.close()
			return
		}
		if _, ok := <-u.watcher.Events; !ok {
			return
		}
	}
}

// Close removes the socket. It is idempotent.
func (u *UAPIListener) Close() error {
	u.close()
	u.watch.Wait()
	return nil
}

func (u *UAPIListener) close() {
	u.closing.Do(func() {
		u.Listener.Close()
		u.watcher.Close()
	})
}
