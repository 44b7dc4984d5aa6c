// Command wice-go is a userspace WireGuard with ICE built in: two machines that know each other's public key get a tunnel, behind any
// NAT and without root. One file a verb.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

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
	var foreground bool
	var readyFD int
	root := &cobra.Command{
		Use:   "wice-go [-f] IFACE",
		Short: "WireGuard that finds its way: a tunnel behind any NAT, without root",
		Long: `wice-go is a userspace WireGuard with ICE built in. Two machines that know each other's public key get a tunnel,
wherever they are: behind any NAT, without root, without a kernel module.

Every flag has an environment variable, as WICE_ICE_SERVER for --ice-server; one of a flag that can be repeated has a value a line. Flags
win over the environment, which wins over the file. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no daemon for that interface, 4 a wait
or a check that did not come true.

With the name of an interface in place of a verb it does what wireguard-go does: it makes the bare interface, which wg, wg-quick, systemd or
others set up. The lines "#!wice" of the interface's file count, if there is one, and the environment.`,
		Example: `  wice-go up wg0          # reads /etc/wireguard/wg0.conf
  wice-go status wg0
  wice-go down wg0
  wice-go demo            # see it work on this machine alone
  WG_QUICK_USERSPACE_IMPLEMENTATION=wice-go wg-quick up wg0`,
		Version:                    ownVersion(),
		SuggestionsMinimumDistance: 2,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError(fmt.Errorf("there is no verb %q; see \"wice-go --help\"", args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			if verb := a.mistyped(cmd, args[0]); verb != "" && !foreground {
				return usageError(fmt.Errorf("there is no verb %q: is it %q? An interface of that name can be had by --foreground, or has a configuration file",
					args[0], verb))
			}
			return a.dropIn(cmd.Context(), args[0], foreground, readyFD)
		},
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.flagsFromEnv(cmd.Flags())
		},
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	flags := root.Flags()
	flags.BoolVarP(&foreground, "foreground", "f", false, "stay in the foreground and log to stderr")
	flags.IntVar(&readyFD, readyFlag, 0, "")
	flags.MarkHidden(readyFlag)
	root.SetVersionTemplate(versionLine())
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

// mistyped returns the verb that was probably meant by what would else be the name of an interface; "" if there is none. Interfaces mostly have a
// number in their names.
func (a *app) mistyped(root *cobra.Command, name string) string {
	if len(name) < 4 || strings.ContainsAny(name, "0123456789") {
		return ""
	}
	verbs := root.SuggestionsFor(name)
	if _, err := a.paths.FindConfig(name); err == nil || len(verbs) == 0 {
		return ""
	}
	return verbs[0]
}
