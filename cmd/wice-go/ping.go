package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/wice-go/wice-go/device/control"
)

type pingFlags struct {
	count       int
	interval    time.Duration
	timeout     time.Duration
	untilDirect bool
}

func newPingCommand(a *app) *cobra.Command {
	var f pingFlags
	cmd := &cobra.Command{
		Use:               "ping IFACE PEER",
		ValidArgsFunction: a.completeRunning,
		Short:             "Ping a peer through the tunnel, and say which path each reply took",
		Long: `Send ICMP echo requests through the tunnel to a peer, given by its name, its public key (or the beginning of it) or an address
inside the tunnel. Each reply comes with the path that the tunnel takes at that moment.`,
		Example: `  wice-go ping wg0 alice
  wice-go ping wg0 10.0.0.2 --until-direct --count 0`,
		Args: exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return a.ping(ctx, args[0], args[1], f)
		},
	}
	flags := cmd.Flags()
	flags.IntVarP(&f.count, "count", "c", 5, "number of probes; 0: until interrupted")
	flags.DurationVarP(&f.interval, "interval", "i", time.Second, "time between two probes")
	flags.DurationVar(&f.timeout, "timeout", 5*time.Second, "how long a reply may take")
	flags.BoolVar(&f.untilDirect, "until-direct", false, "stop at the first reply over a direct path")
	return cmd
}

func (a *app) ping(ctx context.Context, iface, peer string, f pingFlags) error {
	name, _, err := control.InterfaceName(iface)
	if err != nil {
		return usageError(err)
	}
	client, err := a.dial(ctx, name)
	if err != nil {
		return err
	}
	defer client.Close()
	request := control.PingRequest{Peer: peer, TimeoutMs: f.timeout.Milliseconds()}
	replies := 0
	for i := 0; f.count == 0 || i < f.count; i++ {
		if i > 0 {
			select {
			case <-time.After(f.interval):
			case <-ctx.Done():
				return a.pingResult(replies, i)
			}
		}
		reply, err := client.Ping(ctx, request)
		switch {
		case ctx.Err() != nil:
			return a.pingResult(replies, i)
		case errors.Is(err, control.ErrNoReply):
			fmt.Fprintln(a.stderr, err)
			continue
		case err != nil:
			return err
		}
		replies++
		who := reply.Name
		if who == "" {
			who = reply.PublicKey[:8]
		}
		a.say("pong from %s (%s) via %s in %s ms", who, reply.Address, viaPath(reply.Path), threeDigits(reply.RoundTripMs))
		if f.untilDirect && reply.Path != nil && reply.Path.Kind == control.PathDirect {
			return nil
		}
	}
	return a.pingResult(replies, f.count)
}

// pingResult makes an error of probes of which none was answered; what it was has been printed.
func (a *app) pingResult(replies, sent int) error {
	if replies > 0 || sent == 0 {
		return nil
	}
	return fmt.Errorf("none of %d probes was answered", sent)
}

// threeDigits prints a number without an exponent, however large it is.
func threeDigits(ms float64) string {
	if ms >= 100 {
		return fmt.Sprintf("%.0f", ms)
	}
	return fmt.Sprintf("%.3g", ms)
}

// viaPath says which way a reply came.
func viaPath(p *control.PathStatus) string {
	switch {
	case p == nil:
		return "an unknown path"
	case p.Kind == control.PathRelay:
		return fmt.Sprintf("relay (%s %s, %s)", p.Local.Type, p.Local.Address, p.Protocol)
	case p.Kind == control.PathDirect && p.Protocol != "udp":
		return fmt.Sprintf("%s (%s)", p.Remote.Address, p.Protocol)
	}
	return p.Remote.Address.String()
}
