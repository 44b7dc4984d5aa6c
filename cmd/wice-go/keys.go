package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wice-go/wice-go/proto/key"
)

func newGenkeyCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "genkey",
		Short:   "Generate a private key",
		Long:    "Generate a private key and print it in base64, as wg genkey does.",
		Example: "  umask 077\n  wice-go genkey | tee private.key | wice-go pubkey > public.key",
		Args:    exactArgs(0),
		RunE:    func(*cobra.Command, []string) error { return a.printSecret(key.NewPrivate().Base64()) },
	}
}

func newGenpskCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "genpsk",
		Short:   "Generate a preshared key",
		Long:    "Generate a preshared key and print it in base64, as wg genpsk does.",
		Example: "  umask 077\n  wice-go genpsk > preshared.key",
		Args:    exactArgs(0),
		RunE:    func(*cobra.Command, []string) error { return a.printSecret(key.NewPreshared().Base64()) },
	}
}

func newPubkeyCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "pubkey",
		Short:   "Compute the public key of the private key on stdin",
		Long:    "Read a private key in base64 from stdin and print its public key, as wg pubkey does.",
		Example: "  wice-go pubkey < private.key > public.key",
		Args:    exactArgs(0),
		RunE:    func(*cobra.Command, []string) error { return a.pubkey() },
	}
}

// printSecret prints a key, and warns if it goes to a file that others can read.
func (a *app) printSecret(s string) error {
	if f, ok := a.stdout.(interface{ Stat() (fs.FileInfo, error) }); ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o007 != 0 {
			a.warn("writing to world accessible file.\nConsider setting the umask to 077 and trying again.")
		}
	}
	_, err := fmt.Fprintln(a.stdout, s)
	return err
}

// maxKeyInput bounds what pubkey reads, in bytes: a key and the white space that may follow it.
const maxKeyInput = 4096

func (a *app) pubkey() error {
	b, err := io.ReadAll(io.LimitReader(a.stdin, maxKeyInput))
	if err != nil {
		return fmt.Errorf("pubkey: read the private key from stdin: %w", err)
	}
	text := strings.TrimRight(string(b), " \t\r\n\v\f\x00")
	if text == "" {
		return errors.New("pubkey: stdin is empty: give a private key, for example with \"wice-go genkey | wice-go pubkey\"")
	}
	private, err := key.ParsePrivate(text)
	if err != nil && !errors.Is(err, key.ErrZero) { // wg takes the zero key too
		return fmt.Errorf("pubkey: the private key on stdin: %w", err)
	}
	_, err = fmt.Fprintln(a.stdout, private.Public())
	return err
}
