package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/wice-go/wice-go/device/config"
)

func newSaveCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "save IFACE",
		Short: "Write the state of an interface into its file",
		Long: `Write keys, port, mark and peers of a running interface into the file that it came up with, as "wg-quick save" does. Comments and
"#!wice" lines stay. Peers that were added by "wg set" are appended; those that it removed go.`,
		Example:           "  wg set wg0 peer ... remove && wice-go save wg0",
		Args:              exactArgs(1),
		ValidArgsFunction: a.completeRunning,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, name, err := a.dialDaemon(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := client.Save(cmd.Context()); err != nil {
				return fmt.Errorf("save %s: %w", name, err)
			}
			return nil
		},
	}
}

func newStripCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "strip IFACE|FILE.conf",
		Short: "Print a file without what wg itself does not know",
		Long: `Print a file without the keys of wg-quick, as "wg-quick strip" does: what "wg setconf" and "wg syncconf" read. Comments stay, and with
them the "#!wice" lines, which wg ignores. The output has the private key.`,
		Example: "  wice-go strip wg0 | wg syncconf wg0 /dev/stdin",
		Args:    exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			_, file, err := a.findConfig(args[0])
			if err != nil {
				return err
			}
			if _, err := a.loadConfig(file, upFlags{}); err != nil {
				return err
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(a.stdout, config.Strip(string(text)))
			return err
		},
	}
}
