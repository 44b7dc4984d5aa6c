package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/wice-go/wice-go/device/control"
)

// The exit codes, a contract with users.
const (
	exitOK         = 0
	exitFailure    = 1
	exitUsage      = 2
	exitNotRunning = 3 // no running daemon for that interface
	exitNotReady   = 4 // a wait or a check did not come true
)

// app is what every verb works with.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	paths          control.Paths
}

// exitError ends the program with a code other than 1. A nil err ends it silently.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// exitCode returns the code that an error ends the program with.
func exitCode(err error) int {
	var coded *exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(err, control.ErrNotRunning):
		return exitNotRunning
	}
	return exitFailure
}

func usageError(err error) error { return &exitError{exitUsage, err} }

func (a *app) warn(format string, args ...any) {
	fmt.Fprintf(a.stderr, "warning: "+format+"\n", args...)
}

// dial connects to an interface's daemon, for a verb that needs one.
func (a *app) dial(ctx context.Context, name string) (*control.Client, error) {
	client, err := control.Dial(ctx, a.paths.FindControl(name))
	switch {
	case errors.Is(err, control.ErrNotRunning):
		return nil, fmt.Errorf("%s: %w: start one with \"wice-go up %s\"", name, err, name)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return client, nil
}

// envPrefix begins the environment variable that every flag has.
const envPrefix = "WICE_"

func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// flagsFromEnv sets the flags that the command line leaves out from their environment variables. A variable of a flag that can be
// repeated has one value a line. A daemon in the background was told all flags by the command that started it, which has done this, but
// for the secret ones.
func (a *app) flagsFromEnv(flags *pflag.FlagSet) error {
	daemon := flags.Changed(readyFlag)
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Hidden || f.Name == "help" || f.Name == "version" || daemon && !slices.Contains(secretFlags, f.Name) {
			return
		}
		name := envName(f.Name)
		text := a.getenv(name)
		if text == "" {
			return
		}
		values := []string{text}
		if _, repeated := f.Value.(pflag.SliceValue); repeated {
			values = strings.Split(strings.TrimSpace(text), "\n")
		}
		for _, v := range values {
			if err := flags.Set(f.Name, v); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s: %w", name, err))
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		return usageError(err)
	}
	return nil
}

// exactArgs wants n arguments, as the verb's usage line names them.
func exactArgs(n int) cobra.PositionalArgs { return usageArgs(cobra.ExactArgs(n)) }

// usageArgs is a check of cobra's with a message that shows how the verb is used.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if check(cmd, args) != nil {
			return usageError(fmt.Errorf("usage: %s; see \"%s --help\"", cmd.UseLine(), cmd.CommandPath()))
		}
		return nil
	}
}

// logLevel reads the flag --log-level or else LOG_LEVEL as wireguard-go does, with the levels between added.
func (a *app) logLevel(flag string) (slog.Level, error) {
	s := flag
	if s == "" {
		s = a.getenv("LOG_LEVEL")
	}
	switch strings.ToLower(s) {
	case "verbose", "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	case "silent":
		return slog.LevelError + 100, nil
	}
	return 0, usageError(fmt.Errorf("log level %q: want debug, info, warn, error or silent", s))
}
