//go:build !linux

package tun

// prepareMark does nothing: only Linux routes by marks.
func (d *Configured) prepareMark() error { return nil }
