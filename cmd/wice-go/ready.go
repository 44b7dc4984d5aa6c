package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/natefinch/lumberjack.v2"
)

// readyFlag is the hidden flag by which a daemon learns of the pipe to the command that started it.
const readyFlag = "ready-fd"

// lifeFlag is the hidden flag that names a pipe to a daemon: it ends when nobody has the other end of the pipe any more.
const lifeFlag = "life-fd"

// startMessage is one line of JSON that a starting daemon writes to the pipe. The last one has Ready or Error.
type startMessage struct {
	Warning string `json:"warning,omitempty"`
	Ready   string `json:"ready,omitempty"` // the interface's name
	Error   string `json:"error,omitempty"`
	Code    int    `json:"code,omitempty"` // exit code that belongs to Error
}

// readiness tells the command that started the daemon how the start went. Without a pipe the daemon is in the foreground, and says things
// on stderr.
type readiness struct {
	pipe *os.File // nil: in the foreground, or over
	fd   int
}

func openReadiness(fd int) (*readiness, error) {
	r := &readiness{fd: fd}
	if fd != 0 {
		if r.pipe = inherited(fd); r.pipe == nil {
			return nil, fmt.Errorf("--%s %d is not open", readyFlag, fd)
		}
	}
	return r, nil
}

func (r *readiness) send(m startMessage) {
	if r.pipe != nil {
		json.NewEncoder(r.pipe).Encode(m)
	}
}

// say passes a warning on to the user.
func (r *readiness) say(format string, args ...any) {
	r.send(startMessage{Warning: fmt.Sprintf(format, args...)})
}

// ok ends the start well.
func (r *readiness) ok(name string) {
	r.send(startMessage{Ready: name})
	r.close()
}

// fail ends the start with err, unless it is over already, and returns err.
func (r *readiness) fail(err error) error {
	if err != nil && r.pipe != nil {
		r.send(startMessage{Error: err.Error(), Code: exitCode(err)})
		r.close()
	}
	return err
}

func (r *readiness) close() {
	if r.pipe != nil {
		r.pipe.Close()
		r.pipe = nil
	}
}

// startDaemon runs "up --foreground" in the background and returns when it is ready, with the name that the interface got. If there is a pipe
// life, the daemon ends with the last copy of its other end.
func (a *app) startDaemon(arg, name string, f upFlags, life *os.File) (string, error) {
	p := daemonProcess{args: append([]string{"up", arg, "--foreground"}, f.args()...), env: f.environ()}
	if life != nil {
		p.args = append(p.args, "--"+lifeFlag, strconv.Itoa(firstFile))
		p.files = []*os.File{life}
	}
	return p.start(fmt.Sprintf("see %s, or run: wice-go up %s --foreground", a.logFile(name), arg), a.warn)
}

// firstFile is the descriptor that a daemon finds the first of its files at, behind the pipe readyPipe.
const firstFile = readyPipe + 1

// daemonProcess is what a daemon in the background is started with.
type daemonProcess struct {
	args, env []string
	files     []*os.File // its descriptors from firstFile on
	output    bool       // it says on stdout and stderr what this process would; else it has neither
}

// start returns when the daemon is ready, with the name that the interface got. The hint says where to look if it dies without a word.
func (p daemonProcess) start(hint string, warn func(format string, args ...any)) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the own program file: %w", err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer read.Close()
	args := append(p.args[:len(p.args):len(p.args)], "--"+readyFlag, strconv.Itoa(readyPipe))
	process, err := detach(exe, args, p.env, p.output, append([]*os.File{write}, p.files...))
	write.Close()
	if err != nil {
		return "", fmt.Errorf("start the daemon: %w", err)
	}
	lines := bufio.NewReader(read)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			process.Kill()
			process.Wait()
			if err == io.EOF {
				err = fmt.Errorf("the daemon died while it started; %s", hint)
			}
			return "", err
		}
		var m startMessage
		if err := json.Unmarshal(line, &m); err != nil {
			return "", fmt.Errorf("message of the daemon: %w", err)
		}
		switch {
		case m.Warning != "":
			warn("%s", m.Warning)
		case m.Error != "":
			process.Wait()
			return "", &exitError{m.Code, errors.New(m.Error)}
		case m.Ready != "":
			return m.Ready, process.Release()
		}
	}
}

// secretFlags are the flags whose values may have passwords in them. A daemon is told them by the environment: everyone can read its command
// line, for as long as it runs.
var secretFlags = []string{"ice-server", "socks5", "http-proxy"}

// environ is the environment of a daemon, with the values of the secret flags. That of this process stays as it is: exec's command inherits it.
func (f upFlags) environ() []string {
	env := os.Environ()
	for n, value := range []string{strings.Join(f.iceServers, "\n"), f.socks5, f.httpProxy} {
		env = setEnv(env, envName(secretFlags[n]), value)
	}
	return env
}

// setEnv returns env with one more variable, in place of any of that name: of two, a program may take either.
func setEnv(env []string, name, value string) []string {
	setting := name + "="
	env = slices.DeleteFunc(env, func(s string) bool { return strings.HasPrefix(s, setting) })
	return append(env, setting+value)
}

// args returns the other flags that a daemon needs to be told; the environment reaches it by itself.
func (f upFlags) args() []string {
	var args []string
	add := func(flag string, values ...string) {
		for _, v := range values {
			if v != "" {
				args = append(args, "--"+flag+"="+v)
			}
		}
	}
	add("signaling", f.signaling...)
	add("candidate-types", f.candidateTypes)
	add("network-types", f.networkTypes)
	add("tun", f.tun)
	add("forward", f.forwards...)
	add("log-level", f.logLevel)
	if f.lazy {
		add("lazy", "true")
	}
	if f.loopback {
		add("loopback", "true")
	}
	return args
}

// logFile is where a daemon in the background writes its log.
func (a *app) logFile(name string) string { return filepath.Join(a.paths.LogDir(), name+".log") }

const (
	logFileMegabytes = 5 // at most, of one file
	logFileBackups   = 2 // older files kept
)

// openLog returns a logger to stderr, or for a daemon to its log file, where its panics go too.
func (a *app) openLog(name string, level slog.Level, background bool) (*slog.Logger, func(), error) {
	if !background {
		return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level})), func() {}, nil
	}
	path := a.logFile(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, nil, fmt.Errorf("make the directory of the log: %w", err)
	}
	file := &lumberjack.Logger{Filename: path, MaxSize: logFileMegabytes, MaxBackups: logFileBackups}
	if crash, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
		debug.SetCrashOutput(crash, debug.CrashOptions{})
		crash.Close()
	}
	log := slog.New(slog.NewTextHandler(file, &slog.HandlerOptions{Level: level}))
	return log, func() { file.Close() }, nil
}
