//go:build unix

package device

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/fsnotify/fsnotify"
)

// watchedListener closes itself when its file is removed.
type watchedListener struct {
	net.Listener
	watcher *fsnotify.Watcher
	watch   sync.WaitGroup
}

func closeOnRemoval(l net.Listener, path string) (net.Listener, error) {
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		err = watcher.Add(filepath.Dir(path))
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("watch for the removal of %s: %w", path, err)
	}
	w := &watchedListener{Listener: l, watcher: watcher}
	w.watch.Go(func() {
		for {
			if _, err := os.Lstat(path); err != nil {
				l.Close()
				return
			}
			select {
			case _, open := <-watcher.Events:
				if !open {
					return
				}
			case _, open := <-watcher.Errors: // events were lost: look
				if !open {
					return
				}
			}
		}
	})
	return w, nil
}

// Close implements [net.Listener].
func (w *watchedListener) Close() error {
	err := w.Listener.Close()
	w.watcher.Close()
	w.watch.Wait()
	return err
}
