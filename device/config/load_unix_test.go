//go:build !windows

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadWarnsOfReaders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wg0.conf")
	for mode, want := range map[os.FileMode]bool{0o600: false, 0o640: true, 0o604: true, 0o400: false} {
		if err := os.WriteFile(path, []byte(head), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, warnings, err := Load(path)
		if err != nil || (len(warnings) == 1 && strings.Contains(warnings[0].String(), "chmod 600")) != want {
			t.Errorf("mode %o: got %v, %v", mode, warnings, err)
		}
		os.Remove(path)
	}
}
