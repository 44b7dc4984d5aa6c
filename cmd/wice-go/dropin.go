package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"github.com/wice-go/wice-go/device"
	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/device/tunnel"
	"github.com/wice-go/wice-go/tun"
)

// The environment of wireguard-go, beside LOG_LEVEL. That macOS writes the interface's name into the file WG_TUN_NAME_FILE is wireguard-go's doing.
const (
	envTunFD      = "WG_TUN_FD"
	envUAPIFD     = "WG_UAPI_FD"
	envForeground = "WG_PROCESS_FOREGROUND"
)

// retirement is how long a new daemon waits for one of that name to end whose link is gone: scripts make a new interface the moment that they
// have deleted the old one.
const retirement = 5 * time.Second

// dropIn does what "wireguard-go IFACE" does: it makes the bare interface, which others set up, and returns when its UAPI serves. The lines
// "#!wice" of its file count, if there is one, and the environment.
func (a *app) dropIn(ctx context.Context, name string, foreground bool, readyFD int) error {
	if !control.ValidInterface(name) {
		return usageError(fmt.Errorf("there is no verb %q, nor can an interface have that name; see \"wice-go --help\"", name))
	}
	flags := upFlags{readyFD: readyFD}
	cfg, warnings, err := a.dropInConfig(name, &flags)
	for _, w := range warnings {
		if readyFD == 0 { // else the parent has said it
			a.warn("%v", w)
		}
	}
	if err != nil {
		return err
	}
	level, output := a.dropInLog()
	if foreground || a.getenv(envForeground) == "1" {
		read := func() (*config.Config, []config.Warning, error) {
			if _, err := a.paths.FindConfig(name); err != nil { // it would be as good as an empty one
				return nil, nil, err
			}
			return a.dropInConfig(name, &upFlags{})
		}
		err := a.serve(ctx, &running{name: name, cfg: cfg, read: read, flags: flags, dropIn: true}, level, readyFD != 0 && !output)
		if err != nil && readyFD != 0 {
			return &exitError{exitCode(err), nil} // the parent, which may have the same stderr, has said it
		}
		return err
	}
	p := daemonProcess{args: []string{"--foreground", name}, env: os.Environ(), output: output}
	for _, variable := range []string{envTunFD, envUAPIFD} {
		fd, err := a.descriptor(variable)
		if err != nil {
			return err
		}
		if fd >= 0 {
			p.env = setEnv(p.env, variable, strconv.Itoa(firstFile+len(p.files)))
			p.files = append(p.files, inherited(fd))
		}
	}
	_, err = p.start(fmt.Sprintf("run: wice-go --foreground %s", name), a.warn)
	return err
}

// dropInConfig reads what the interface's file, if there is one, and the environment add to WireGuard.
func (a *app) dropInConfig(name string, f *upFlags) (cfg *config.Config, warnings []config.Warning, err error) {
	cfg = &config.Config{Interface: config.Interface{Signaling: config.DefaultSignaling()}}
	file, err := a.paths.FindConfig(name)
	switch {
	case err == nil:
		if cfg, warnings, err = config.LoadAdditions(file); err != nil {
			return nil, warnings, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		warnings = append(warnings, config.Warning{File: name, Text: err.Error()})
	}
	variables := pflag.NewFlagSet(name, pflag.ContinueOnError)
	f.addTunnelFlags(variables)
	if err := a.flagsFromEnv(variables); err != nil {
		return nil, warnings, err
	}
	if err := f.apply(&cfg.Interface); err != nil {
		return nil, warnings, err
	}
	return cfg, warnings, cfg.CheckBackends(slices.Sorted(maps.Keys(tunnel.Backends())))
}

// dropInLog reads LOG_LEVEL as wireguard-go does: with a level that says something, a daemon in the background keeps the output of the command
// that has started it; with one that is unknown, it says errors alone.
func (a *app) dropInLog() (level slog.Level, output bool) {
	level, err := a.logLevel("")
	if err != nil {
		level = slog.LevelError
	}
	text := a.getenv("LOG_LEVEL")
	return level, text != "" && !strings.EqualFold(text, "silent")
}

// descriptor reads a variable with the number of an inherited file. Without it the result is -1.
func (a *app) descriptor(variable string) (int, error) {
	text := a.getenv(variable)
	if text == "" {
		return -1, nil
	}
	fd, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return -1, usageError(fmt.Errorf("environment variable %s: %q is not the number of a file", variable, text))
	}
	return int(fd), nil
}

// setUpDropIn makes the TUN, and the sockets under the name that it got.
func (r *running) setUpDropIn(ctx context.Context) error {
	dev, err := r.openDropInTun()
	if err != nil {
		return err
	}
	serve, uapi, err := r.openSockets(ctx)
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	t, serveUAPI, err := r.newTunnel(dev, uapi)
	if err != nil {
		return err
	}
	if err := t.Up(0); err != nil {
		return err
	}
	r.dropRights()
	serveUAPI()
	serve()
	return nil
}

func (r *running) openDropInTun() (wgtun.Device, error) {
	fd, err := r.app.descriptor(envTunFD)
	if err != nil {
		return nil, err
	}
	var dev wgtun.Device
	if fd >= 0 {
		dev, err = tun.Inherit(fd)
	} else {
		dev, err = tun.Open(r.name, 0)
	}
	if err != nil {
		return nil, err
	}
	if name, err := dev.Name(); err == nil {
		r.name = name
	}
	return dev, nil
}

// openSockets makes the control socket and that of the UAPI.
func (r *running) openSockets(ctx context.Context) (serve func(), uapi net.Listener, err error) {
	fd, err := r.app.descriptor(envUAPIFD)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, retirement)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if serve, err = r.openControl(); !errors.Is(err, control.ErrInUse) || ctx.Err() != nil {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	if err != nil {
		return nil, nil, err
	}
	path := r.app.paths.UAPISocket(r.name)
	if fd >= 0 {
		uapi, err = device.InheritUAPI(path, fd)
	} else {
		uapi, err = device.ListenUAPI(path)
	}
	if err != nil {
		return nil, nil, err
	}
	r.later(func() error { return ignoreClosed(uapi.Close()) })
	return serve, uapi, nil
}
