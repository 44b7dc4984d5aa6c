package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// programs is where the programs under test are built; constant after TestMain.
var programs string

// TestMain builds wice-go once, as a user would. The race detector slows the daemons down so much that no figure means anything: it
// watches them only with E2E_RACE=1 in the environment.
func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run() // every test says what it lacks
	}
	dir, err := os.MkdirTemp("", "wice-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// The tests that run as another user reach the program too.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	programs = dir
	var flags []string
	if os.Getenv("E2E_RACE") == "1" {
		flags = append(flags, "-race")
	}
	if err := build(wiceGo(), "github.com/wice-go/wice-go/cmd/wice-go", flags...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// wiceGo is the path of the program under test.
func wiceGo() string { return filepath.Join(programs, "wice-go") }

// wireguardGo builds the plain wireguard-go of this module's dependency, once, and returns its path.
var wireguardGo = sync.OnceValues(func() (string, error) {
	path := filepath.Join(programs, "wireguard-go")
	return path, build(path, "golang.zx2c4.com/wireguard")
})

func build(path, pkg string, flags ...string) error {
	args := append(append([]string{"build"}, flags...), "-o", path, pkg)
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}
