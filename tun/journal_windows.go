package tun

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

const openNoFollow = 0

// lockFile takes the lock that lasts as long as the open file, that is, at most as long as the process. It covers one
// byte beyond what a journal can hold: locks of Windows forbid the reading of what they cover.
func lockFile(f *os.File) error {
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0,
		&windows.Overlapped{Offset: maxJournal + 1})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrInUse
	}
	return err
}

// trusted leaves the question to the access list of the directory, which only administrators can write.
func trusted(fs.FileInfo) bool { return true }

// removeLocked closes first: Windows does not remove an open file.
func removeLocked(f *os.File) error {
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// syncDir has nothing to do: NTFS keeps a journal of names.
func syncDir(string) error { return nil }
