package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/device/tunnel"
)

// upFlags are the flags of "up": each #!wice key of [Interface] has one.
type upFlags struct {
	foreground     bool
	wait           time.Duration
	signaling      []string
	iceServers     []string
	candidateTypes string
	networkTypes   string
	tun            string
	socks5         string
	httpProxy      string
	forwards       []string
	lazy           bool
	loopback       bool
	logLevel       string
	readyFD        int
	adjust         func(*config.Interface) error // what the verb makes of file and flags; nil: nothing
	lifeFD         int
}

// defaultWait is how long --wait without a value waits.
const defaultWait = 30 * time.Second

func newUpCommand(a *app) *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "up IFACE|FILE.conf",
		Short: "Bring an interface up",
		Long: `Bring an interface up as its wg-quick file says. Returns when it is configured and its daemon answers, and leaves the
daemon running. Without the right to make a kernel TUN the userspace stack carries the traffic.`,
		Example: `  wice-go up wg0
  wice-go up ./office.conf --wait
  wice-go up wg0 --foreground --tun netstack`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.up(cmd.Context(), args[0], f)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.foreground, "foreground", "f", false, "stay in the foreground and log to stderr")
	f.addWaitFlag(flags)
	flags.StringVar(&f.tun, "tun", "", "kind of TUN: auto, kernel or netstack")
	f.addTunnelFlags(flags)
	flags.IntVar(&f.readyFD, readyFlag, 0, "")
	flags.IntVar(&f.lifeFD, lifeFlag, 0, "")
	flags.MarkHidden(readyFlag)
	flags.MarkHidden(lifeFlag)
	return cmd
}

// addWaitFlag adds the flag --wait.
func (f *upFlags) addWaitFlag(flags *pflag.FlagSet) {
	flags.DurationVar(&f.wait, "wait", 0, "return only when every peer with ICE is connected, else exit with code 4 after this time")
	flags.Lookup("wait").NoOptDefVal = defaultWait.String()
}

// addTunnelFlags adds what the verbs that bring a tunnel up have in common.
func (f *upFlags) addTunnelFlags(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.signaling, "signaling", nil, "signaling backend, as after \"Signaling =\" (repeatable)")
	flags.StringArrayVar(&f.iceServers, "ice-server", nil, "STUN or TURN server, as after \"ICEServer =\" (repeatable)")
	flags.StringVar(&f.candidateTypes, "candidate-types", "", "candidate types to use: host,srflx,relay")
	flags.StringVar(&f.networkTypes, "network-types", "", "network types to use: udp4,udp6,tcp4,tcp6")
	flags.StringVar(&f.socks5, "socks5", "", "address of a SOCKS5 proxy into the tunnel, as after \"SOCKS5 =\" (userspace stack)")
	flags.StringVar(&f.httpProxy, "http-proxy", "", "address of an HTTP proxy into the tunnel, as after \"HTTPProxy =\" (userspace stack)")
	flags.StringArrayVar(&f.forwards, "forward", nil, "forward, as after \"Forward =\" (repeatable, userspace stack)")
	flags.BoolVar(&f.lazy, "lazy", false, "start sessions with the first packet or offer")
	flags.BoolVar(&f.loopback, "loopback", false, "let loopback addresses be ICE candidates: for peers on this machine alone")
	flags.StringVar(&f.logLevel, "log-level", "", "debug, info, warn, error or silent (default: LOG_LEVEL, else info)")
}

func (a *app) up(ctx context.Context, arg string, f upFlags) error {
	name, file, err := a.findConfig(arg)
	if err != nil {
		return err
	}
	cfg, err := a.loadConfig(file, f)
	if err != nil {
		return err
	}
	if f.foreground {
		return a.runForeground(ctx, name, cfg, f)
	}
	if _, err := a.logLevel(f.logLevel); err != nil {
		return err
	}
	name, err = a.startDaemon(arg, name, f, nil)
	if err != nil || f.wait == 0 {
		return err
	}
	missing, err := a.waitConnected(ctx, name, f.wait)
	if err == nil && len(missing) > 0 {
		err = notReady("%s is up, but not connected after %v; it goes on trying", missing, name, f.wait)
	}
	return err
}

// findConfig resolves the argument of up: a file, or the name of an interface with a file in one of the known places.
func (a *app) findConfig(arg string) (name, file string, err error) {
	name, file, err = control.InterfaceName(arg)
	if err != nil {
		return "", "", usageError(err)
	}
	if file != "" {
		file, err = filepath.Abs(file)
		return name, file, err
	}
	file, err = a.paths.FindConfig(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w; write one, or give the path of another: ./%s.conf", err, name)
	}
	return name, file, err
}

// loadConfig is readConfig with the warnings given to the user.
func (a *app) loadConfig(file string, f upFlags) (*config.Config, error) {
	cfg, warnings, err := readConfig(file, f)
	if f.readyFD == 0 { // else the parent has said it
		for _, w := range warnings {
			a.warn("%v", w)
		}
	}
	return cfg, err
}

// readConfig reads the file and lets flags, and the environment behind them, win over it.
func readConfig(file string, f upFlags) (*config.Config, []config.Warning, error) {
	cfg, warnings, err := config.Load(file)
	if err != nil {
		return nil, warnings, err
	}
	if err := f.apply(&cfg.Interface); err != nil {
		return nil, warnings, err
	}
	if f.adjust != nil {
		if err := f.adjust(&cfg.Interface); err != nil {
			return nil, warnings, err
		}
	}
	return cfg, warnings, cfg.CheckBackends(slices.Sorted(maps.Keys(tunnel.Backends())))
}

func (f upFlags) apply(i *config.Interface) error {
	var errs []error
	note := func(flag string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	note("signaling", setEach(&i.Signaling, f.signaling, config.ParseSignaling))
	note("ice-server", setEach(&i.ICEServers, f.iceServers, config.ParseICEServer))
	note("candidate-types", set(&i.CandidateTypes, f.candidateTypes, config.ParseCandidateTypes))
	note("network-types", set(&i.NetworkTypes, f.networkTypes, config.ParseNetworkTypes))
	note("tun", set(&i.Tun, f.tun, config.ParseTun))
	note("socks5", set(&i.SOCKS5, f.socks5, config.ParseProxy))
	note("http-proxy", set(&i.HTTPProxy, f.httpProxy, config.ParseProxy))
	note("forward", setEach(&i.Forwards, f.forwards, config.ParseForward))
	if f.lazy {
		i.Lazy = true
	}
	if err := errors.Join(errs...); err != nil {
		return usageError(err)
	}
	return nil
}

// set parses the value of a flag, if it has one, in place of what the file says.
func set[T any](to *T, text string, parse func(string) (T, error)) (err error) {
	if text != "" {
		*to, err = parse(text)
	}
	return err
}

// setEach is set for a flag that can be repeated: its values replace all those of the file.
func setEach[T any](to *[]T, texts []string, parse func(string) (T, error)) error {
	if len(texts) == 0 {
		return nil
	}
	values := make([]T, len(texts))
	var errs []error
	for n, text := range texts {
		errs = append(errs, set(&values[n], text, parse))
	}
	*to = values
	return errors.Join(errs...)
}

// notReady is the error of a wait that did not come true, with what is missing below the text.
func notReady(format string, missing []string, args ...any) error {
	return &exitError{exitNotReady, fmt.Errorf(format+":\n  %s", append(args, strings.Join(missing, "\n  "))...)}
}

// waitConnected returns when every peer that takes part in ICE is connected, or after the limit those that are not, each with the reason.
func (a *app) waitConnected(ctx context.Context, name string, limit time.Duration) (missing []string, err error) {
	client, err := control.Dial(ctx, a.paths.FindControl(name))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		status, err := client.Status(ctx)
		switch {
		case err == nil:
			if missing = status.NotConnected(); len(missing) == 0 {
				return nil, nil
			}
		case ctx.Err() == nil:
			return nil, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return missing, nil
		}
	}
}

func newDownCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "down IFACE",
		ValidArgsFunction: a.completeRunning,
		Short:             "Stop an interface's daemon and remove what it set up",
		Example:           "  wice-go down wg0",
		Args:              exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.down(cmd.Context(), args[0])
		},
	}
}

// downTimeout bounds the wait for a daemon that was told to stop: its PreDown and PostDown commands may take their time.
const downTimeout = 30 * time.Second

func (a *app) down(ctx context.Context, arg string) error {
	name, _, err := control.InterfaceName(arg)
	if err != nil {
		return usageError(err)
	}
	client, err := control.Dial(ctx, a.paths.FindControl(name))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := client.Down(ctx); err != nil {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	return client.WaitStopped(ctx)
}
