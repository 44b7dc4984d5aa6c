//go:build unix

package main

// shell runs a hook.
var shell = []string{"/bin/sh", "-c"}
