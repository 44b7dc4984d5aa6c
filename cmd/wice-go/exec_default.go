//go:build !linux

package main

import (
	"context"
	"errors"

	"github.com/wice-go/wice-go/device/control"
)

func runStage() {}

// execInside is for Linux alone.
func (a *app) execInside(context.Context, *control.Client, []string) (int, error) {
	return 0, errors.New("there are no network namespaces on this system: use --proxy-env")
}
