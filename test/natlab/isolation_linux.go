package natlab

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
)

// isolation is a host's own view of the file system: an empty /run, so that
// daemons of two hosts can serve the same interface name, and an /etc whose
// changes (resolv.conf, /etc/wireguard) stay on the host. It is held by one
// process, made with the host's first command, that lives as long as its
// standard input: it ends with the test process, however that ends.
type isolation struct {
	ns namespace // constant

	mu     sync.Mutex // guards the following
	holder *exec.Cmd
	stdin  io.Closer
	closed bool
}

// holderScript makes the mounts. Without the first line the copies of other
// labs' namespaces would be held for as long as this one.
const holderScript = `set -e
umount -R -l /run/netns 2>/dev/null || true
mount -t tmpfs -o mode=0755 natlab /run
mkdir -p /run/lock /run/natlab/upper /run/natlab/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/natlab/upper,workdir=/run/natlab/work natlab /etc
echo ready
exec cat >/dev/null
`

// open returns the process that holds the mounts, and starts it if need be.
func (i *isolation) open() (pid int, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return 0, fmt.Errorf("use namespace %s: the lab is removed", i.ns.name)
	}
	if i.holder != nil {
		return i.holder.Process.Pid, nil
	}
	// ip netns exec gives the process the namespace's /sys too.
	cmd := exec.Command("ip", "netns", "exec", i.ns.name, "unshare", "--mount", "--propagation", "private", "sh", "-c", holderScript)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("isolate %s: %w", i.ns.name, err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		stdin.Close()
		err = cmd.Wait()
		return 0, fmt.Errorf("isolate %s: %v: %s", i.ns.name, err, strings.TrimSpace(stderr.String()))
	}
	i.holder, i.stdin = cmd, stdin
	return cmd.Process.Pid, nil
}

// close ends the holder; the mounts go with the last process that uses them.
func (i *isolation) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	if i.holder == nil {
		return
	}
	i.stdin.Close()
	_ = i.holder.Wait() // cat has nothing to tell
	i.holder = nil
}

// cutDir returns what path has below dir.
func cutDir(path, dir string) (rest string, ok bool) {
	if rest, ok = strings.CutPrefix(path, dir); !ok {
		return "", false
	}
	return rest, rest == "" || strings.HasPrefix(rest, "/")
}
