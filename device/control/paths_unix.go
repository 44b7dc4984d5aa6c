//go:build !windows

package control

import (
	"os"
	"runtime"
)

const hostOS = runtime.GOOS

func isRoot() bool { return os.Geteuid() == 0 }
