package program

import (
	"fmt"
	"os/exec"
)

// The commands that tests run.
const (
	WiceGo      = "github.com/wice-go/wice-go/cmd/wice-go"
	WireGuardGo = "golang.zx2c4.com/wireguard" // as this module pins it
)

// Build makes a command of this module or of a dependency into a file, with more flags of "go build".
func Build(file, command string, flags ...string) error {
	args := append(append([]string{"build"}, flags...), "-o", file, command)
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", command, err, out)
	}
	return nil
}
