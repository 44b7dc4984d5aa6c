// Command wice-go is a userspace WireGuard with ICE built in: two machines that know each other's public key get a tunnel, behind any
// NAT and without root. One file a verb; backends.go has the table of signaling backends.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/wice-go/wice-go/device/control"
)

func main() {
	runStage()
	// quic-go prints a warning on stderr where the system allows only small socket buffers. Signaling sends a few kilobytes.
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, paths: control.SystemPaths()}
	os.Exit(a.run(os.Args[1:]))
}

// run executes the command line and returns the exit code.
func (a *app) run(args []string) int {
	root := a.rootCommand()
	root.SetArgs(args)
	err := root.Execute()
	var coded *exitError
	if err != nil && !(errors.As(err, &coded) && coded.err == nil) {
		fmt.Fprintln(a.stderr, "wice-go:", err)
	}
	return exitCode(err)
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "wice-go",
		Short: "WireGuard that finds its way: a tunnel behind any NAT, without root",
		Long: `wice-go is a userspace WireGuard with ICE built in. Two machines that know each other's public key get a tunnel,
wherever they are: behind any NAT, without root, without a kernel module.

Every flag has an environment variable, as WICE_ICE_SERVER for --ice-server; one of a flag that can be repeated has a value a line. Flags
win over the environment, which wins over the file. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no daemon for that interface, 4 a wait
or a check that did not come true.`,
		Example: `  wice-go up wg0          # reads /etc/wireguard/wg0.conf
  wice-go status wg0
  wice-go down wg0
  wice-go demo            # see it work on this machine alone`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError(fmt.Errorf("there is no verb %q; see \"wice-go --help\"", args[0]))
			}
			return nil
		},
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.flagsFromEnv(cmd.Flags())
		},
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(fmt.Errorf("%w; see \"%s --help\"", err, cmd.CommandPath()))
	})
	root.AddCommand(
		newUpCommand(a), newDownCommand(a), newReloadCommand(a), newSaveCommand(a), newStripCommand(a), newShowCommand(a), newStatusCommand(a), newPingCommand(a), newProxyCommand(a), newNCCommand(a),
		newGenkeyCommand(a), newGenpskCommand(a), newPubkeyCommand(a),
		newRendezvousCommand(a), newExecCommand(a), newDemoCommand(a), newVersionCommand(a), newCompletionCommand(a),
	)
	return root
}
