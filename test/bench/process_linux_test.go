package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wice-go/wice-go/test/natlab"
	"github.com/wice-go/wice-go/test/program"
)

const (
	// patience is the deadline of what takes no part in a measurement: far more than needed, so that a busy machine fails nothing.
	patience = 30 * time.Second
	// stopGrace is how long a program may take to end by itself.
	stopGrace = 5 * time.Second
	pollStep  = 20 * time.Millisecond
)

// process is a program that runs on a host until the test ends.
type process struct {
	name   string
	cmd    *exec.Cmd
	out    program.Buffer // standard output and error
	exited chan struct{}  // closed when it is gone
}

// start runs a program with more variables in its environment, and nothing on its standard input.
func start(t testing.TB, h *natlab.Host, env []string, name string, args ...string) *process {
	t.Helper()
	return startWithInput(t, h, nil, env, name, args...)
}

func startWithInput(t testing.TB, h *natlab.Host, stdin *os.File, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{name: h.Name + ": " + strings.Join(append([]string{name}, args...), " "), exited: make(chan struct{})}
	p.cmd = h.Command(context.Background(), name, args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if stdin != nil {
		p.cmd.Stdin = stdin
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", p.name, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s: the last that it printed:\n%s", p.name, program.Tail(p.out.String(), 30))
		}
	})
	return p
}

// stop asks the program to end, and kills it when it does not.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(stopGrace):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// ended reports whether the program is gone.
func (p *process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// cpu is what the program has used so far.
func (p *process) cpu(t testing.TB) time.Duration {
	t.Helper()
	return cpuOf(t, p.cmd.Process.Pid)
}

func cpuOf(t testing.TB, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatalf("a program that is measured is gone: %v", err)
	}
	used, err := parseCPU(string(stat))
	if err != nil {
		t.Fatal(err)
	}
	return used
}

// output runs a program on a host to its end, and returns what it printed.
func output(t testing.TB, h *natlab.Host, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience+time.Duration(*seconds)*time.Second)
	defer cancel()
	cmd := h.Command(ctx, name, args...)
	cmd.Env = append(os.Environ(), "WICE_RUNTIME_DIR=/run")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %s %s: %w\n%s%s", h.Name, name, strings.Join(args, " "), err, &stderr, &stdout)
	}
	return stdout.String(), nil
}

// must is output of what has to succeed.
func must(t testing.TB, h *natlab.Host, name string, args ...string) string {
	t.Helper()
	out, err := output(t, h, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// until polls until there is no error, and ends the test with the last one when the time is over.
func until(t testing.TB, what string, done func() error) {
	t.Helper()
	tick := time.NewTicker(pollStep)
	defer tick.Stop()
	deadline := time.Now().Add(patience)
	for {
		err := done()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v; last: %v", what, patience, err)
		}
		<-tick.C
	}
}
