//go:build !linux

package main

// dropCapabilities does nothing: there are none.
func dropCapabilities(rights) ([]string, error) { return nil, nil }
