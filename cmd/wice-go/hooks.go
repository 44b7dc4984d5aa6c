package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wice-go/wice-go/device/control"
)

const (
	// hookLine is the length in bytes at which a line of a command's output is broken.
	hookLine = 4096

	// hookTail is how many lines of output the error of a failed command shows.
	hookTail = 5

	// hookDrain is how long the rest of the output may take after the end of the command. It is there by then, unless the command has
	// left a process in the background that may say more at any time.
	hookDrain = 100 * time.Millisecond
)

// hooks runs the commands of PreUp, PostUp, PreDown or PostDown one after another, as wg-quick does: by the shell, with %i replaced by
// the interface's name. Their output goes where the daemon's log goes. The first that fails ends it.
func (r *running) hooks(ctx context.Context, key string, commands []string) error {
	for _, command := range commands {
		command = strings.ReplaceAll(command, "%i", r.name)
		r.log.Info("running a command", "key", key, "command", command)
		if tail, err := r.hook(ctx, key, command); err != nil {
			if tail != "" {
				err = fmt.Errorf("%w: %s", err, tail)
			}
			return fmt.Errorf("%s = %s: %w", key, command, err)
		}
	}
	return nil
}

// hook runs one command, and returns the end of its output. What it starts in the background lives on, and has its output logged until
// the daemon ends.
func (r *running) hook(ctx context.Context, key, command string) (tail string, err error) {
	out, in, err := os.Pipe()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, shell[0], append(shell[1:len(shell):len(shell)], command)...)
	cmd.Env = append(hookEnv(os.Environ()), "WG_QUICK_USERSPACE_IMPLEMENTATION=wice-go")
	cmd.Stdout, cmd.Stderr = in, in // a file: with another writer, Wait would wait for the background too
	err = cmd.Start()
	in.Close()
	if err != nil {
		out.Close()
		return "", err
	}
	lines := &hookOutput{}
	done := make(chan struct{})
	r.outputs.Go(func() {
		defer close(done)
		defer out.Close()
		for text := range readLines(out) {
			r.log.Info("output of a command", "key", key, "output", text)
			lines.add(text)
		}
	})
	err = cmd.Wait()
	select {
	case <-done:
	case <-time.After(hookDrain):
		r.leftover = append(r.leftover, out)
	}
	return lines.tail(), err
}

// hookEnv leaves out of an environment what sets flags: it holds secrets of this daemon, and another one that a command starts would take it
// for its own; and what is between this process and systemd. Where the sockets are is no such thing.
func hookEnv(env []string) []string {
	return slices.DeleteFunc(env, func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return strings.HasPrefix(name, envPrefix) && name != control.EnvRuntimeDir || slices.Contains(notifyEnv, name)
	})
}

// endHooks stops reading the output of what the commands have left in the background.
func (r *running) endHooks() {
	for _, out := range r.leftover {
		out.Close()
	}
	r.outputs.Wait()
}

// hookOutput keeps the last lines of a command.
type hookOutput struct {
	mu    sync.Mutex // guards the following
	lines []string
}

func (o *hookOutput) add(line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.lines) == hookTail {
		o.lines = o.lines[1:]
	}
	o.lines = append(o.lines, line)
}

func (o *hookOutput) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.lines, "\n")
}

// readLines yields the lines of r that are not blank, until r ends.
func readLines(r io.Reader) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		lines := bufio.NewReaderSize(r, hookLine)
		for {
			line, _, err := lines.ReadLine()
			if text := strings.TrimSpace(string(line)); text != "" && !yield(text) {
				return
			}
			if err != nil {
				return
			}
		}
	}
}
