package rendezvous

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/libp2p/go-libp2p/core/crypto"
)

// identityFile holds the libp2p private key: clients' lines name its peer ID, so it has to survive.
const identityFile = "identity.key"

// loadIdentity returns the identity kept in dir, made at the first start. With dir "" it is a new one that is not kept.
func loadIdentity(dir string) (crypto.PrivKey, error) {
	if dir == "" {
		k, _, err := crypto.GenerateEd25519Key(rand.Reader)
		return k, err
	}
	path := filepath.Join(dir, identityFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeIdentity(dir, path)
	}
	if err != nil {
		return nil, fmt.Errorf("rendezvous identity: %w", err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("rendezvous identity: %s is damaged: %w; restore it, or remove it to get a new identity (the clients then need the new lines)", path, err)
	}
	k, err := crypto.UnmarshalPrivateKey(raw)
	if err != nil {
		return nil, fmt.Errorf("rendezvous identity: %s is damaged: %w; restore it, or remove it to get a new identity (the clients then need the new lines)", path, err)
	}
	return k, nil
}

func makeIdentity(dir, path string) (crypto.PrivKey, error) {
	k, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("rendezvous identity: %w", err)
	}
	raw, err := crypto.MarshalPrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("rendezvous identity: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("rendezvous identity: %w", err)
	}
	// Written beside and renamed, so that a crash leaves no half of a key behind. CreateTemp makes it 0600.
	f, err := os.CreateTemp(dir, identityFile+".*")
	if err != nil {
		return nil, fmt.Errorf("rendezvous identity: %w", err)
	}
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(raw) + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return nil, fmt.Errorf("rendezvous identity: %w", err)
	}
	return k, nil
}
