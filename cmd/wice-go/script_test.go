package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/test/program"
)

// TestMain makes the real program a command of the scripts. A copy of this test stands in for it, under its name, by which it knows that it
// is to be the program; so do the daemons that it starts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"wice-go": main, "drop-here": dropHere})
}

// scriptPatience is for what takes a fraction of a second on an idle machine.
const scriptPatience = 30 * time.Second

// scriptPeers are those that have keys in scripts, as $ALICE_KEY and $ALICE_PUB. Each script has others: its peers must not find those of
// another one in the network of this machine.
var scriptPeers = []string{"ALICE", "BOB", "CAROL", "DAVE"}

// TestScript runs the command line as users do, each script of testdata in a world of its own: rootless, and with traffic on loopback alone.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setUpScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": scriptCode, "echo": scriptEcho, "eventually": scriptEventually, "expand": scriptExpand, "notified": scriptNotified,
			"ports": scriptPorts, "refused": scriptRefused, "says": scriptSays, "serve": scriptServe, "told": scriptTold, "web": scriptWeb,
		},
	})
}

func setUpScript(e *testscript.Env) error {
	// The paths of sockets are short, shorter than that of the script's directory may be.
	dir, err := os.MkdirTemp("", "wice")
	if err != nil {
		return err
	}
	e.Defer(func() {
		stopDaemons(e, dir)
		os.RemoveAll(dir)
	})
	e.Setenv("RUN", dir)
	e.Values[systemd{}] = new(systemd)
	e.Setenv(control.EnvRuntimeDir, dir)
	for _, v := range []string{"XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"} {
		e.Setenv(v, filepath.Join(e.WorkDir, strings.ToLower(v)))
	}
	for _, name := range scriptPeers {
		k := key.NewPrivate()
		e.Setenv(name+"_KEY", k.Base64())
		e.Setenv(name+"_PUB", k.Public().String())
	}
	return nil
}

// stopDaemons ends what a script that failed has left running in the background.
func stopDaemons(e *testscript.Env, dir string) {
	sockets, _ := control.SystemPaths().WithRuntimeDir(dir).ControlSockets()
	for _, s := range sockets {
		cmd := exec.Command("wice-go", "down", s.Interface)
		cmd.Env = e.Vars
		if out, err := cmd.CombinedOutput(); err != nil && !strings.Contains(string(out), control.ErrNotRunning.Error()) {
			e.T().Log("stop", s.Interface, err, string(out))
		}
	}
}

// scriptCode is "code N PROGRAM ARG...": the program ends with that exit code.
func scriptCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N PROGRAM ARG...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("got exit code %d, want %s", got, args[0])
	}
}

// scriptEventually is "eventually REGEXP PROGRAM ARG...": sooner or later the program prints that.
func scriptEventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually REGEXP PROGRAM ARG...")
	}
	want, err := regexp.Compile(`(?m)` + args[0])
	ts.Check(err)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(scriptPatience); ; <-tick.C {
		ts.Exec(args[1], args[2:]...)
		got := ts.ReadFile("stdout") + ts.ReadFile("stderr")
		if want.MatchString(got) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("never printed: %s", args[0])
		}
	}
}

// scriptExpand is "expand FILE...": the environment's variables are put in, and the files are made private.
func scriptExpand(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), func(v string) string {
			if value := ts.Getenv(v); value != "" {
				return value
			}
			return "$" + v // the shell's
		})
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
		ts.Check(os.Chmod(ts.MkAbs(name), 0o600))
	}
}

// scriptPorts is "ports VAR...": each variable gets a port of loopback that nobody uses.
func scriptPorts(ts *testscript.TestScript, neg bool, args []string) {
	for _, v := range args {
		port, err := program.FreePort()
		ts.Check(err)
		ts.Setenv(v, fmt.Sprint(port))
	}
}

// scriptEcho is "echo VAR": a server on a port of loopback, of which the variable gets the number, sends back what it gets, by TCP until the
// end and by UDP.
func scriptEcho(ts *testscript.TestScript, neg bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	udp, err := net.ListenPacket("udp", l.Addr().String())
	if errors.Is(err, syscall.EADDRINUSE) {
		scriptEcho(ts, neg, args) // another program has that port for UDP
		return
	}
	ts.Check(err)
	ts.Defer(func() { udp.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			udp.WriteTo(buf[:n], from)
		}
	}()
	ts.Setenv(args[0], fmt.Sprint(l.Addr().(*net.TCPAddr).Port))
}

// scriptRefused is "refused PORT": nobody listens on that port of loopback.
func scriptRefused(ts *testscript.TestScript, neg bool, args []string) {
	c, err := net.Dial("tcp", "127.0.0.1:"+args[0])
	if err == nil {
		c.Close()
	}
	if (err != nil) == neg {
		ts.Fatalf("dial port %s: %v", args[0], err)
	}
}

// scriptServe is "serve VAR TEXT": a server on loopback says that to everyone, and its port is in the variable.
func scriptServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: serve VAR TEXT")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Setenv(args[0], fmt.Sprint(l.Addr().(*net.TCPAddr).Port))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, args[1])
			c.Close()
		}
	}()
}

// scriptWeb is "web VAR TEXT": a web server on loopback whose every page is that text; VAR gets the port.
func scriptWeb(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: web VAR TEXT")
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, args[1]+"\n") }))
	ts.Defer(s.Close)
	ts.Setenv(args[0], fmt.Sprint(s.Listener.Addr().(*net.TCPAddr).Port))
}

// scriptSays is "says PORT TEXT": who listens on that port of loopback says no more and no less.
func scriptSays(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: says PORT TEXT")
	}
	c, err := net.Dial("tcp", "127.0.0.1:"+args[0])
	ts.Check(err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(scriptPatience))
	if got, err := io.ReadAll(c); err != nil || string(got) != args[1] {
		ts.Fatalf("got %q, %v, want %q", got, err, args[1])
	}
}
