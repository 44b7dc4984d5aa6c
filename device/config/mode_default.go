//go:build !windows

package config

import "io/fs"

// readableByOthers reports whether the group or others may read the file.
func readableByOthers(mode fs.FileMode) bool { return mode.Perm()&0o044 != 0 }
