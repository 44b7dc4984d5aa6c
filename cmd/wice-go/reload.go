package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/device/control"
)

// reloadTimeout bounds a reload: it waits for no peer.
const reloadTimeout = 30 * time.Second

func newReloadCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "reload IFACE",
		Short: "Apply the changes of an interface's file while it runs",
		Long: `Apply the changes of an interface's file while it runs, as "wg syncconf" does, and print them. Peers that stay as they are keep their
sessions and lose no packet. What can take effect only when the interface comes up anew is named. An error in the file changes nothing.
SIGHUP to the daemon does the same, with the result in its log. Of an interface that other tools have set up the lines "#!wice" are applied;
the rest is for theirs ("wg syncconf").`,
		Example:           "  wice-go reload wg0",
		Args:              exactArgs(1),
		ValidArgsFunction: a.completeRunning,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, name, err := a.dialDaemon(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), reloadTimeout)
			defer cancel()
			reloaded, err := client.Reload(ctx)
			if err != nil {
				return fmt.Errorf("reload %s: %w", name, err)
			}
			for _, w := range reloaded.Warnings {
				a.warn("%s", w)
			}
			for _, c := range reloaded.Changed {
				fmt.Fprintln(a.stdout, c)
			}
			if len(reloaded.Pending) > 0 {
				a.warn("%s", pendingText(name, reloaded.Pending))
			}
			return nil
		},
	}
}

// pendingText says what to do about keys that take effect later.
func pendingText(name string, keys []string) string {
	verb := "takes"
	if len(keys) > 1 {
		verb = "take"
	}
	return fmt.Sprintf("%s %s effect only after: wice-go down %s && wice-go up %s", strings.Join(keys, ", "), verb, name, name)
}

// dialDaemon finds the daemon of the interface that an argument names.
func (a *app) dialDaemon(ctx context.Context, arg string) (client *control.Client, name string, err error) {
	name, _, err = control.InterfaceName(arg)
	if err != nil {
		return nil, "", usageError(err)
	}
	client, err = control.Dial(ctx, a.paths.FindControl(name))
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", name, err)
	}
	return client, name, nil
}

// config is what is in force; before the interface is there, what the file and the flags said.
func (r *running) config() *config.Config {
	if r.dev == nil {
		return r.cfg
	}
	return r.dev.Config()
}

// reload reads the file again and makes the interface follow it. What has changed is logged.
func (r *running) reload() (control.Reloaded, error) {
	r.changing.Lock()
	defer r.changing.Unlock()
	defer r.reloading()()
	result := control.Reloaded{Changed: []string{}}
	file, warnings, err := r.read()
	for _, w := range warnings {
		r.log.Warn("configuration file", "warning", w)
		result.Warnings = append(result.Warnings, w.String())
	}
	if err != nil {
		return result, r.forLackOfRights(err)
	}
	plan, err := r.tun.Reload(file)
	if plan == nil {
		return result, err
	}
	for _, c := range plan.Changes {
		r.log.Info("reloaded", "change", c)
		result.Changed = append(result.Changed, c.String())
	}
	if len(plan.Pending) > 0 && r.dropIn {
		result.Warnings = append(result.Warnings, strings.Join(plan.Pending, ", ")+": not before the interface is made anew")
		r.log.Warn("reloaded in part: " + result.Warnings[len(result.Warnings)-1])
	} else if len(plan.Pending) > 0 {
		result.Pending = plan.Pending
		r.log.Warn("reloaded in part: " + pendingText(r.name, plan.Pending))
	}
	if len(plan.Changes) == 0 {
		r.log.Info("reloaded: nothing has changed")
	} else {
		r.checkForwards()
		r.checkProxies()
	}
	return result, errors.Join(err, r.reroute(plan, &result))
}

// reroute makes mark and routes follow the peers of a reload. The sockets have the mark first: what they dialled in between would be routed
// into the tunnel that it is to carry, and keep an address of the tunnel for as long as it lives.
func (r *running) reroute(plan *config.Reload, result *control.Reloaded) error {
	mark, c := plan.Config.Interface.FwMark, r.configured
	if c == nil {
		if plan.Has("FwMark") {
			return r.dev.SetMark(mark)
		}
		return nil
	}
	said := len(c.Warnings())
	refused := c.SetFwMark(mark) // for as long as there are routes that may have to go
	prefixes := allowedIPs(plan.Config)
	mark, err := c.MarkFor(prefixes)
	if err == nil {
		err = r.dev.SetMark(mark)
	}
	if err == nil {
		err = c.SetRoutes(prefixes)
	}
	if err = errors.Join(refused, err); err != nil {
		return err
	}
	for _, w := range c.Warnings()[said:] {
		r.log.Warn("not everything could be set up", "err", w)
		result.Warnings = append(result.Warnings, w.Error())
	}
	return nil
}

// allowedIPs are those of all peers.
func allowedIPs(c *config.Config) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range c.Peers {
		list = append(list, p.AllowedIPs...)
	}
	return list
}

// Reload implements [control.Daemon].
func (d *daemon) Reload(context.Context) (control.Reloaded, error) {
	result, err := d.reload()
	if err != nil {
		d.log.Error("reload failed", "err", err)
	}
	return result, err
}

// Save implements [control.Daemon].
func (d *daemon) Save(context.Context) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	if err := d.saveConfig(); err != nil {
		return err
	}
	d.log.Info("configuration saved", "file", d.config().File)
	return nil
}
