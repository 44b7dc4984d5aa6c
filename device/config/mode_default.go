//go:build !windows

package config

import (
	"io/fs"
	"os"
	"syscall"
)

// readableByOthers reports whether the group or others may read the file.
func readableByOthers(mode fs.FileMode) bool { return mode.Perm()&0o044 != 0 }

// keepAccess gives a new file the mode of the one that it replaces, and its owner and group where that is permitted. Another group than that one
// may do nothing.
func keepAccess(f *os.File, before fs.FileInfo) error {
	mode := before.Mode().Perm()
	st, ok := before.Sys().(*syscall.Stat_t)
	if ok && f.Chown(-1, int(st.Gid)) != nil {
		mode &^= 0o070
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if ok {
		_ = f.Chown(int(st.Uid), -1) // last, as the mode is the owner's to set
	}
	return nil
}
