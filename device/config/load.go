package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Load reads the file at path. The warnings tell of what works although it is hardly meant so; they come with an error too.
func Load(path string) (*Config, []Warning, error) { return load(path, false) }

// LoadAdditions reads what the file at path adds to WireGuard, its lines "#!wice", and the public keys of the peers that they stand at: an
// interface that wg and wg-quick set up takes all else from them. So what is wrong with other lines, or missing, is theirs to find.
func LoadAdditions(path string) (*Config, []Warning, error) { return load(path, true) }

func load(path string, additions bool) (*Config, []Warning, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, explain(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, explain(path, err)
	}
	if info.IsDir() {
		return nil, nil, fmt.Errorf("%s: is a directory: name a configuration file in it, or the interface", path)
	}
	var warnings []Warning
	if mode := info.Mode(); mode.IsRegular() && readableByOthers(mode) {
		warnings = append(warnings, Warning{File: path, Text: fmt.Sprintf("others can read this file and its private key (mode %04o): run \"chmod 600 %s\"", mode.Perm(), path)})
	}
	c, more, err := parse(path, f, additions)
	return c, append(warnings, more...), err
}

// explain adds what to do to an error of opening a file.
func explain(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w: make it, or give the path of another configuration file", path, fs.ErrNotExist)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w: run this as root, or as the owner of the file", path, fs.ErrPermission)
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return fmt.Errorf("%s: %w", path, err)
}

// CheckBackends reports the Signaling lines whose backend is none of those known.
func (c *Config) CheckBackends(known []string) error {
	var errs []error
	for _, s := range c.Interface.Signaling {
		if !slices.Contains(known, s.Backend) {
			errs = append(errs, &ParseError{File: c.File, Line: s.Line, Text: "#!wice Signaling = " + shorten(s.String(), 80),
				Err: fmt.Errorf("there is no signaling backend %q: want one of %s", s.Backend, strings.Join(known, ", "))})
		}
	}
	return errors.Join(errs...)
}
