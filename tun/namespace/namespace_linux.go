package namespace

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Config says what a namespace has.
type Config struct {
	Interface string         `json:"interface"` // its name
	MTU       int            `json:"mtu"`       // bytes
	Addresses []netip.Prefix `json:"addresses"`
	Routes    []netip.Prefix `json:"routes"` // what lies behind the interface

	DNS           []netip.Addr `json:"dns"` // what resolv.conf says; none: names other than Hosts are not found
	SearchDomains []string     `json:"searchDomains"`

	Hosts map[string][]netip.Addr `json:"hosts"` // what /etc/hosts says beside the system's own lines
}

// ErrUnavailable says that this system does not let this user make namespaces. It is wrapped with what to do.
var ErrUnavailable = errors.New("unprivileged user namespaces are not available here")

// errStage says that the stage has ended without a word.
var errStage = errors.New("the process that sets the namespace up has died")

// Namespace is a namespace with its command. Its methods are safe for concurrent use, but for Run and Wait, which are called once each.
type Namespace struct {
	stage *exec.Cmd
	conn  *net.UnixConn
	in    *json.Decoder
	file  *os.File
}

// Start makes a namespace with its interface, and prepares a command, which does not run yet. The command has the caller's standard streams,
// working directory and user.
func Start(c Config, argv []string) (*Namespace, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	n := &Namespace{conn: ours, in: json.NewDecoder(ours)}
	if n.stage, err = startStage(theirs); err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	theirs.Close() // so that the end of the stage shows
	if err := n.setUp(c, argv); err != nil {
		ours.Close()
		n.stage.Wait()
		return nil, err
	}
	return n, nil
}

// startStage runs this program again, in new namespaces. Root needs no user namespace for it, which would take rights away, unless it is a
// root with few of them, as in containers.
func startStage(socket *os.File) (*exec.Cmd, error) {
	const isolated = unix.CLONE_NEWNET | unix.CLONE_NEWNS
	if os.Geteuid() == 0 {
		cmd, err := startIn(socket, &syscall.SysProcAttr{Cloneflags: isolated})
		if !errors.Is(err, unix.EPERM) {
			return cmd, err
		}
	}
	cmd, err := startIn(socket, &syscall.SysProcAttr{
		Cloneflags:  isolated | unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}},
		// CAP_SYS_PTRACE is for killAll: it tells whose namespace a process is in that does not let itself be looked at, as ssh-agent.
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE},
	})
	if err != nil {
		return nil, unavailable(err)
	}
	return cmd, nil
}

func startIn(socket *os.File, attributes *syscall.SysProcAttr) (*exec.Cmd, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{stageName}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{socket}
	cmd.SysProcAttr = attributes
	return cmd, cmd.Start()
}

// unavailable says what stands in the way, and who can take it away.
func unavailable(err error) error {
	for _, s := range []struct{ file, wanted, remedy string }{
		{"/proc/sys/kernel/unprivileged_userns_clone", "1", "sysctl kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "0", "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for wice-go that allows userns"},
	} {
		if b, readErr := os.ReadFile(s.file); readErr == nil && string(b) != s.wanted+"\n" {
			return fmt.Errorf("%w (%w): ask the administrator for: %s", ErrUnavailable, err, s.remedy)
		}
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EUSERS) {
		return fmt.Errorf("%w (%w): ask the administrator to raise: sysctl user.max_user_namespaces, user.max_net_namespaces", ErrUnavailable, err)
	}
	if os.Geteuid() == 0 { // since Linux 5.12
		return fmt.Errorf("%w (%w): run it as another user, or as a root with CAP_SETFCAP; or a container's seccomp profile forbids them", ErrUnavailable, err)
	}
	return fmt.Errorf("%w (%w): a container's seccomp profile or its runtime may forbid them", ErrUnavailable, err)
}

// setUp has the stage make the interface, and receives its file.
func (n *Namespace) setUp(c Config, argv []string) error {
	r := setUpRequest{Config: c}
	for _, argument := range argv {
		r.Argv = append(r.Argv, []byte(argument))
	}
	if err := json.NewEncoder(n.conn).Encode(r); err != nil {
		return err
	}
	// The descriptor comes with the first byte of the answer.
	first, files, err := receiveFiles(n.conn)
	if err != nil {
		return err
	}
	n.in = json.NewDecoder(io.MultiReader(&first, n.conn))
	answer, err := n.receive()
	switch {
	case err != nil:
	case answer.err() != nil:
		err = answer.err()
	case len(files) != 1:
		err = errStage
	default:
		n.file = files[0]
		return nil
	}
	for _, f := range files {
		f.Close()
	}
	return err
}

// File is that of the interface: for [tun.FromFile], here or in another process. It belongs to the namespace.
func (n *Namespace) File() *os.File { return n.file }

// Run starts the command. It chooses the local ports of its connections between the two given ones.
func (n *Namespace) Run(firstPort, lastPort uint16) error {
	if err := json.NewEncoder(n.conn).Encode(runRequest{FirstPort: firstPort, LastPort: lastPort}); err != nil {
		return errStage
	}
	m, err := n.receive()
	if err != nil {
		return err
	}
	return m.err()
}

// Signal sends the command a signal.
func (n *Namespace) Signal(s syscall.Signal) error {
	return json.NewEncoder(n.conn).Encode(signalRequest{Signal: int(s)})
}

// Disconnect takes the interface down and ends the TCP connections through it, once the command runs: without one who reads from the file they
// would wait rather than fail.
func (n *Namespace) Disconnect() error {
	return json.NewEncoder(n.conn).Encode(signalRequest{Disconnect: true})
}

// Wait returns the exit code of the command when the namespace has ended: 128 and the signal's number if a signal has ended it.
func (n *Namespace) Wait() (int, error) {
	m, err := n.receive()
	n.stage.Wait()
	n.file.Close()
	n.conn.Close()
	if err != nil {
		return 0, err
	}
	return m.ExitCode, m.err()
}

// Close ends the namespace with all that runs in it. It is for a namespace whose command was not run; see Wait for the others.
func (n *Namespace) Close() error {
	n.conn.Close()
	n.file.Close()
	return n.stage.Wait()
}

func (n *Namespace) receive() (stageMessage, error) {
	var m stageMessage
	if err := n.in.Decode(&m); err != nil {
		return m, errStage
	}
	return m, nil
}

// CommandError is why a command could not be run.
type CommandError struct {
	Code int // 127: it was not found; 126: it was, but can't be executed
	Text string
}

func (e *CommandError) Error() string { return e.Text }

// The messages between caller and stage, a line of JSON each.
type (
	setUpRequest struct {
		Config Config   `json:"config"`
		Argv   [][]byte `json:"argv"` // bytes, as they need not be the UTF-8 that strings of JSON are
	}
	runRequest struct {
		FirstPort uint16 `json:"firstPort"`
		LastPort  uint16 `json:"lastPort"`
	}
	signalRequest struct {
		Signal     int  `json:"signal,omitempty"`
		Disconnect bool `json:"disconnect,omitempty"` // take the interface down, instead of a signal
	}
	// stageMessage answers each request but signals, and tells of the end.
	stageMessage struct {
		Error      string `json:"error,omitempty"`
		Permission bool   `json:"permission,omitempty"` // the error is that something is not permitted
		Command    bool   `json:"command,omitempty"`    // the error is the command's; ExitCode goes with it
		ExitCode   int    `json:"exitCode,omitempty"`
	}
)

func (m stageMessage) err() error {
	switch {
	case m.Error == "":
		return nil
	case m.Command:
		return &CommandError{Code: m.ExitCode, Text: m.Error}
	case m.Permission:
		return unavailable(errors.New(m.Error))
	}
	return errors.New(m.Error)
}

func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "namespace"), os.NewFile(uintptr(fds[1]), "stage")
	defer ours.Close()
	c, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return c.(*net.UnixConn), theirs, nil
}
