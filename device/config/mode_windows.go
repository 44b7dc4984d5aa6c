package config

import (
	"io/fs"
	"os"
)

// readableByOthers is always false: the mode bits of Windows say nothing about who may read a file.
func readableByOthers(fs.FileMode) bool { return false }

// keepAccess does nothing but for the read-only attribute: who may do what with a new file its directory says.
func keepAccess(f *os.File, before fs.FileInfo) error { return f.Chmod(before.Mode().Perm()) }
