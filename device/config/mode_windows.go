package config

import "io/fs"

// readableByOthers is always false: the mode bits of Windows say nothing about who may read a file.
func readableByOthers(fs.FileMode) bool { return false }
