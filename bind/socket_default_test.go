//go:build !linux

package bind

func disableGSO(*socket) {}
