package main

import (
	"context"
	"errors"

	"github.com/wice-go/wice-go/device/control"
)

func (a *app) execProxied(context.Context, *control.Client, []string) (int, error) {
	return 0, errors.New("to come")
}
