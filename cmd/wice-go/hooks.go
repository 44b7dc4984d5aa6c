package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// hooks runs the commands of PreUp, PostUp, PreDown or PostDown one after another, as wg-quick does: by the shell, with %i replaced by
// the interface's name. Their output goes where the daemon's log goes. The first that fails ends it.
func (r *running) hooks(ctx context.Context, key string, commands []string) error {
	for _, command := range commands {
		command = strings.ReplaceAll(command, "%i", r.name)
		r.log.Info("running a command", "key", key, "command", command)
		cmd := exec.CommandContext(ctx, shell[0], append(shell[1:len(shell):len(shell)], command)...)
		cmd.Env = append(os.Environ(), "WG_QUICK_USERSPACE_IMPLEMENTATION=wice-go")
		out, err := cmd.CombinedOutput()
		if text := strings.TrimSpace(string(out)); text != "" {
			r.log.Info("output of the command", "key", key, "output", text)
		}
		if err != nil {
			return fmt.Errorf("%s = %s: %w: %s", key, command, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
