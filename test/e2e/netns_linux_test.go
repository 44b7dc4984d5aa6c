package e2e

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wice-go/wice-go/test/natlab"
	"github.com/wice-go/wice-go/test/program"
)

// netnsScript is what has the script find a /run of its own, for its namespaces and for the sockets. The script changes net.core.message_cost,
// which the first network namespace alone has, and puts it back.
const netnsScript = `umount -R -l /run/netns 2>/dev/null
mount -t tmpfs -o mode=0755 netns /run && exec bash "$@"`

// The test of wireguard-go, unmodified, takes wice-go for wireguard-go. It is the only one that runs at its time: it moves 8 GB.
func TestWireGuardNamespaces(t *testing.T) {
	natlab.Need(t)
	for _, tool := range []string{"bash", "ss", "wg", "iperf3", "ping", "ping6", "ncat", "iptables"} {
		needTool(t, tool)
	}
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", program.WireGuardGo).Output()
	if err != nil {
		t.Fatalf("find wireguard-go in the module cache: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private", "sh", "-c", netnsScript, "netns",
		filepath.Join(strings.TrimSpace(string(dir)), "tests", "netns.sh"), wiceGo())
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it cleans up
	cmd.WaitDelay = patience
	stdin, err := cmd.StdinPipe() // what it waits on when it sleeps
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	out := new(program.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		t.Errorf("netns.sh: %v\n%s", err, program.Tail(out.String(), 100))
	}
}
