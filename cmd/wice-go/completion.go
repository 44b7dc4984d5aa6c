package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newCompletionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print a script that completes commands in a shell",
		Example: `  wice-go completion bash > /etc/bash_completion.d/wice-go
  source <(wice-go completion zsh)`,
		Args:      exactArgs(1),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(cmd *cobra.Command, args []string) error {
			const descriptions = true
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, descriptions)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, descriptions)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.stdout)
			}
			return usageError(fmt.Errorf("no completion for %q: want bash, zsh, fish or powershell", args[0]))
		},
	}
}

// completeRunning offers the interfaces that have a daemon as first argument.
func (a *app) completeRunning(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	sockets, _ := a.paths.ControlSockets() // an error just means less to offer
	names := make([]cobra.Completion, 0, len(sockets))
	for _, s := range sockets {
		names = append(names, s.Interface)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
