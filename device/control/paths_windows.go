package control

import "golang.org/x/sys/windows"

const hostOS = "windows"

func isRoot() bool { return windows.GetCurrentProcessToken().IsElevated() }
