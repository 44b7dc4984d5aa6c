//go:build unix

package tun

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// openNoFollow keeps a journal from being a link to another file.
const openNoFollow = unix.O_NOFOLLOW

// lockFile takes the lock that lasts as long as the open file, that is, at most as long as the process.
func lockFile(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrInUse
	}
	return err
}

// trusted reports whether nobody but this user can have written the file.
func trusted(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(s.Uid) == os.Geteuid() && info.Mode().Perm()&0o022 == 0
}

// removeLocked removes the file while its lock is held, so that nobody can take over a file that goes away.
func removeLocked(f *os.File) error {
	return errors.Join(os.Remove(f.Name()), f.Close())
}

// syncDir makes the name of a new file last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) {
		err = nil // the file system has nothing to sync
	}
	return errors.Join(err, d.Close())
}
