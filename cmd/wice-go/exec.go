package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/device/control"
)

// execWait is how long a command waits for the peers of a tunnel that was brought up for it, where --wait does not say: enough for those that
// are there, and not too long where one is not.
const execWait = 5 * time.Second

// execFlags are the flags of "exec".
type execFlags struct {
	up       upFlags // of a tunnel that is brought up for the command
	proxyEnv bool
	tunnel   []string // the names of those flags of up, --wait apart, that were given
}

func newExecCommand(a *app) *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:   "exec IFACE|FILE.conf [flags] -- CMD [ARG]...",
		Short: "Run a command whose network is the tunnel, without root (Linux)",
		Long: `Run a command whose only network is the tunnel: with the interface's addresses, routes to what its peers have, its DNS servers
and the names of its peers. It needs no root: the command has a user and a network namespace of its own, and runs as the user who called.
The tunnel is that of the interface's daemon; without one it is brought up for the command, from the interface's file. What the command
leaves running ends with it.

The exit code is that of the command; 127 if there is no such command, 126 if it can't be executed.

Where user namespaces are not permitted, and on other systems, --proxy-env runs the command in the ordinary network, with HTTP_PROXY,
HTTPS_PROXY and ALL_PROXY naming proxies into the tunnel, which programs may or may not heed.`,
		Example: `  wice-go exec wg0 -- curl http://10.0.0.2/
  wice-go exec ./office.conf -- bash
  wice-go exec wg0 --proxy-env -- git clone https://git.example/project`,
		Args: usageArgs(func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); dash > 1 { // as in "--wait 5s -- CMD": 5s is not the command
				return errors.New("want nothing but the interface before --")
			}
			return cobra.MinimumNArgs(2)(cmd, args)
		}),
		ValidArgsFunction: a.completeRunning,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.up.tun = "netstack" // the machine's own network stays as it is
			cmd.Flags().Visit(func(flag *pflag.Flag) {
				if flag.Name != "wait" && flag.Name != "proxy-env" && flag.Name != "loopback" {
					f.tunnel = append(f.tunnel, flag.Name)
				}
			})
			return a.exec(cmd.Context(), args[0], args[1:], f)
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usageError(fmt.Errorf("%w; what is the command's goes behind --, as in: wice-go exec IFACE -- CMD", err))
	})
	flags := cmd.Flags()
	f.up.addWaitFlag(flags)
	f.up.addTunnelFlags(flags)
	flags.BoolVar(&f.proxyEnv, "proxy-env", runtime.GOOS != "linux", "no namespace: tell the command of proxies by its environment")
	return cmd
}

// exec runs a command in the tunnel of an interface's daemon, which is there or is started for it. Its error has the command's exit code.
func (a *app) exec(ctx context.Context, arg string, argv []string, f execFlags) error {
	name, _, err := control.InterfaceName(arg)
	if err != nil {
		return usageError(err)
	}
	client, err := control.Dial(ctx, a.paths.FindControl(name))
	if errors.Is(err, control.ErrNotRunning) {
		var end func()
		if client, end, err = a.execDaemon(ctx, arg, f.up); err == nil {
			defer end()
		} else if faster, dialErr := control.Dial(ctx, a.paths.FindControl(name)); dialErr == nil { // another one was
			client, err = faster, nil
		}
	} else if err == nil {
		err = a.joining(ctx, name, f)
	}
	if err != nil {
		return err
	}
	defer client.Close()
	var code int
	if f.proxyEnv {
		code, err = a.execProxied(ctx, client, argv)
	} else {
		code, err = a.execInside(ctx, client, argv)
	}
	if err == nil && code != 0 {
		err = &exitError{code: code}
	}
	return err
}

// joining does what the flags ask for where a daemon is there already.
func (a *app) joining(ctx context.Context, name string, f execFlags) error {
	if len(f.tunnel) > 0 {
		a.warn("%s is up already, so these flags count for nothing: --%s", name, strings.Join(f.tunnel, " --"))
	}
	if f.up.wait == 0 {
		return nil
	}
	missing, err := a.waitConnected(ctx, name, f.up.wait)
	if err == nil && len(missing) > 0 {
		err = notReady("%s is not connected after %v, so the command was not run", missing, name, f.up.wait)
	}
	return err
}

// execDaemon starts a daemon that ends with this process, at the latest, unless other commands use it by then. The returned function ends it before.
func (a *app) execDaemon(ctx context.Context, arg string, f upFlags) (*control.Client, func(), error) {
	name, file, err := a.findConfig(arg)
	if err != nil {
		return nil, nil, err
	}
	cfg, err := a.loadConfig(file, f)
	if err != nil {
		return nil, nil, err
	}
	life, ours, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	name, err = a.startDaemon(arg, name, f, life)
	life.Close()
	if err != nil {
		return nil, nil, errors.Join(err, ours.Close())
	}
	client, err := control.Dial(ctx, a.paths.FindControl(name))
	if err != nil {
		return nil, nil, errors.Join(err, ours.Close())
	}
	end := func() {
		ours.Close()
		ctx, cancel := context.WithTimeout(context.Background(), downTimeout)
		defer cancel()
		if err := waitEnded(ctx, client); err != nil {
			a.warn("%v", err)
		}
	}
	limit, strict := execWait, f.wait > 0
	switch {
	case strict:
		limit = f.wait
	case !slices.ContainsFunc(cfg.Peers, func(p config.Peer) bool { return connectsFirst(cfg, p) }):
		return client, end, nil
	}
	missing, err := a.waitConnected(ctx, name, limit)
	if err == nil && len(missing) > 0 {
		if strict {
			err = notReady("%s is not connected after %v, so the command was not run", missing, name, limit)
		} else {
			a.warn("not connected after %v; the command runs all the same:\n  %s", limit, strings.Join(missing, "\n  "))
		}
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		end()
		return nil, nil, err
	}
	return client, end, nil
}

// waitEnded returns when a daemon that was started for a command has ended, or goes on for the sake of others.
func waitEnded(ctx context.Context, client *control.Client) error {
	const looks = 5 // the command itself may count for a moment
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range looks {
		s, err := client.Status(ctx)
		if err != nil || s.Commands == 0 {
			return client.WaitStopped(ctx)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// connectsFirst reports whether a peer is connected before there is traffic, and reached only then: others are called by the traffic.
func connectsFirst(cfg *config.Config, p config.Peer) bool {
	lazy := cfg.Interface.Lazy
	if p.Lazy != nil {
		lazy = *p.Lazy
	}
	return !lazy && p.ICE != config.ICEOff && p.Endpoint == ""
}
