package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/rendezvous"
)

func newRendezvousCommand(a *app) *cobra.Command {
	var (
		addresses, announce, allow []string
		port, stunPort             uint16
		state, level               string
		relay, allowPrivate        bool
	)
	cmd := &cobra.Command{
		Use:   "rendezvous",
		Short: "Run the server of a network: bootstrap, relay, STUN and TURN in one process",
		Long: `Run the server by which the peers of a network find each other: libp2p bootstrap and relay for signaling, STUN, and a TURN relay
for peers between which nothing else works. It sees neither private keys nor traffic. On stdout it prints one line for each of its
addresses: clients paste it into [Interface], and need nothing else.`,
		Example: `  wice-go rendezvous
  wice-go rendezvous --address 10.0.0.5 --announce 192.0.2.1    # behind a one-to-one NAT
  wice-go rendezvous --allow PUBLICKEY --allow PUBLICKEY        # relay for these keys alone`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := rendezvous.Options{Port: port, STUNPort: stunPort, StateDir: state, Relay: relay, AllowPrivate: allowPrivate}
			var err error
			if o.Addresses, err = parseAddrs("address", addresses); err != nil {
				return err
			}
			if o.Announce, err = parseAddrs("announce", announce); err != nil {
				return err
			}
			for _, s := range allow {
				pk, err := key.ParsePublic(s)
				if err != nil {
					return usageError(fmt.Errorf("--allow %s: %w", s, err))
				}
				o.Allow = append(o.Allow, pk)
			}
			min, err := a.logLevel(level)
			if err != nil {
				return err
			}
			if o.StateDir == "" {
				o.StateDir = a.paths.RendezvousStateDir()
			}
			o.Logger = slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: min}))

			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			server, err := rendezvous.Start(ctx, o)
			if err != nil {
				return err
			}
			// In one piece: who has read one of them has them all.
			fmt.Fprintln(a.stdout, strings.Join(server.Lines(), "\n"))
			<-ctx.Done()
			return server.Close()
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&addresses, "address", nil, "IP address to listen on (repeatable; default: all)")
	flags.StringArrayVar(&announce, "announce", nil, "IP address to tell clients, if a NAT stands in between (repeatable; default: those listened on)")
	flags.Uint16Var(&port, "port", 4001, "TCP and UDP port of the signaling")
	flags.Uint16Var(&stunPort, "stun-port", 3478, "UDP and TCP port of STUN and TURN")
	flags.StringVar(&state, "state", "", "directory of the server's identity (default: the user's state directory)")
	flags.StringArrayVar(&allow, "allow", nil, "public key that may use the relay (repeatable; default: all)")
	flags.BoolVar(&relay, "relay", true, "relay traffic of peers between which nothing else works")
	flags.BoolVar(&allowPrivate, "allow-private", false, "relay to private addresses too, for a network that lives on such")
	flags.StringVar(&level, "log-level", "", "debug, info, warn, error or silent (default: LOG_LEVEL, else info)")
	return cmd
}

func parseAddrs(flag string, texts []string) ([]netip.Addr, error) {
	addrs := make([]netip.Addr, 0, len(texts))
	for _, s := range texts {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, usageError(fmt.Errorf("--%s %s: not an IP address", flag, s))
		}
		addrs = append(addrs, a.Unmap())
	}
	return addrs, nil
}
