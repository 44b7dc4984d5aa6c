package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/tun/namespace"
)

// runStage does the part of this process if it is one inside a namespace, and does not return then.
func runStage() { namespace.RunStage() }

// execInside runs the command in a namespace that is attached to the daemon's tunnel.
func (a *app) execInside(ctx context.Context, client *control.Client, argv []string) (int, error) {
	attachment, err := client.Attach(ctx)
	if err != nil {
		return 0, err
	}
	defer attachment.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ns, err := namespace.Start(namespace.Config(attachment.Network), argv)
	if errors.Is(err, namespace.ErrUnavailable) {
		err = fmt.Errorf("%w; or run the command with proxies instead: wice-go exec %s --proxy-env -- %s ...", err, attachment.Network.Interface, argv[0])
	}
	if err != nil {
		return 0, err
	}
	first, last, err := attachment.Send(ns.File())
	if err != nil {
		return 0, errors.Join(err, ns.Close())
	}
	signals := make(chan os.Signal, 16)
	catchSignals(signals)
	defer signal.Stop(signals)
	if err := ns.Run(first, last); err != nil {
		ns.Close()
		if command := (*namespace.CommandError)(nil); errors.As(err, &command) {
			err = &exitError{command.Code, err}
		}
		return 0, err
	}
	go func() {
		<-attachment.Done()
		if ctx.Err() == nil {
			a.warn("the daemon of %s has ended: the command has no network any more", attachment.Network.Interface)
			ns.Disconnect()
		}
	}()
	go passOn(signals, ctx.Done(), func(s os.Signal) error { return ns.Signal(s.(syscall.Signal)) })
	return ns.Wait()
}
