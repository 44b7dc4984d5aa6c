package namespace

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wice-go/wice-go/tun"
)

const (
	// stageName is the name by which this program knows that it is a stage.
	stageName = "wice-go-namespace"
	// stageSocket is the descriptor that a stage finds its socket at.
	stageSocket = 3
)

// RunStage does the stage's part if this process is one, and does not return then. It is the first thing that main calls.
func RunStage() {
	if len(os.Args) == 0 || os.Args[0] != stageName {
		return
	}
	unix.CloseOnExec(stageSocket)
	file := os.NewFile(stageSocket, "caller")
	c, err := net.FileConn(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, "wice-go: this is no command of its own")
		os.Exit(1)
	}
	file.Close()
	s := &stage{conn: c.(*net.UnixConn), in: json.NewDecoder(c), gone: make(chan struct{})}
	s.run()
	os.Exit(0)
}

type stage struct {
	conn *net.UnixConn
	in   *json.Decoder
	link string // the interface
	argv []string
	gone chan struct{} // closed when the caller has gone, once the command runs
}

func (s *stage) run() {
	// The terminal's signals are the command's, as those to the process group are.
	CatchSignals(make(chan os.Signal, 1))
	// What loses its parent becomes this process's child, so that nothing gets out of reach.
	unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	if err := s.setUp(); err != nil {
		s.send(failure(err))
		return
	}
	var r runRequest
	if s.in.Decode(&r) != nil {
		return // the caller has gone
	}
	setSysctl("net/ipv4/ip_local_port_range", fmt.Sprintf("%d %d", r.FirstPort, r.LastPort))
	started, ended := make(chan *os.Process, 1), make(chan stageMessage, 1)
	go command(s.argv, started, ended)
	if process := <-started; process != nil {
		s.send(stageMessage{})
		go s.forward(process)
	}
	m := <-ended
	killAll()
	drain(s.gone)
	s.send(m)
}

// setUp makes the interface as the caller asks, and sends its file.
func (s *stage) setUp() error {
	var r setUpRequest
	if err := s.in.Decode(&r); err != nil {
		return err
	}
	s.link = r.Config.Interface
	for _, argument := range r.Argv {
		s.argv = append(s.argv, string(argument))
	}
	file, err := tun.OpenFile(r.Config.Interface, r.Config.MTU)
	if err != nil {
		return err
	}
	defer file.Close()
	for _, setting := range [][2]string{
		{"net/ipv4/ping_group_range", fmt.Sprintf("%d %[1]d", os.Getegid())}, // ping needs no privilege
		{"net/ipv4/ip_unprivileged_port_start", "0"},                         // servers on low ports neither
		{"net/ipv4/tcp_tw_reuse", "1"},                                       // the range of ports is small
		{"net/ipv6/conf/all/accept_ra", "0"},
	} {
		setSysctl(setting[0], setting[1])
	}
	if err := setLink("lo", netlink.LinkSetUp); err != nil { // which it is not in a new namespace
		return err
	}
	_, err = tun.Configure(r.Config.Interface, tun.Config{
		Addresses: r.Config.Addresses,
		MTU:       r.Config.MTU,
		Routes:    r.Config.Routes,
		Table:     unix.RT_TABLE_MAIN, // there is no other way out that a default route would have to spare
	}, nil)
	if err != nil {
		return err
	}
	texts, err := mountFiles(r.Config)
	if err != nil {
		return err
	}
	keepFiles(texts)
	return sendFile(s.conn, file)
}

func (s *stage) send(m stageMessage) {
	json.NewEncoder(s.conn).Encode(m) // if the caller has gone, that shows when it is read from
}

func failure(err error) stageMessage {
	return stageMessage{Error: err.Error(), Permission: errors.Is(err, fs.ErrPermission) || errors.Is(err, tun.ErrPermission)}
}

// command runs argv to its end. The thread that it is called on must not end before that, since the command dies with it.
func command(argv []string, started chan<- *os.Process, ended chan<- stageMessage) {
	runtime.LockOSThread()
	// What the stage was allowed to do is not the command's; a command that root runs has root's rights anyway.
	unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		started <- nil
		code := 126
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			code = 127
		}
		ended <- stageMessage{Error: err.Error(), Command: true, ExitCode: code}
		return
	}
	started <- cmd.Process
	for {
		// The children that others have left are waited for, too.
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR), err == nil && pid != cmd.Process.Pid:
			continue
		case err != nil:
			ended <- failure(err)
		case status.Signaled():
			ended <- stageMessage{ExitCode: 128 + int(status.Signal())}
		default:
			ended <- stageMessage{ExitCode: status.ExitStatus()}
		}
		return
	}
}

// forward sends the command the signals that the caller asks for, or takes its network away. When the caller has gone, it ends all that runs in the namespace.
func (s *stage) forward(process *os.Process) {
	defer close(s.gone)
	for {
		var r signalRequest
		if err := s.in.Decode(&r); err != nil {
			process.Kill() // also if it has gone to another namespace
			return         // the end of the command ends the stage, and all else
		}
		if r.Disconnect {
			setLink(s.link, netlink.LinkSetDown)
			endConnections()
			continue
		}
		process.Signal(syscall.Signal(r.Signal))
	}
}

// killAll kills the processes that descend from this one until there are none. Their namespaces don't tell: they may have made others, and
// of those that can't be traced, as ssh-agent, nobody learns them.
func killAll() {
	const rounds = 1000 // for those that make new ones as fast as they are killed
	for range rounds {
		all, alive := descendants()
		for _, pid := range all {
			unix.Kill(pid, unix.SIGKILL)
		}
		if alive == 0 {
			return
		}
		runtime.Gosched()
	}
}

// descendants lists the children of this process and theirs, and counts those that have not ended. One whose first thread has ended looks as if
// it all had.
func descendants() (list []int, alive int) {
	children, ended := make(map[int][]int), make(map[int]bool)
	for _, pid := range processes() {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// The command's name, in parentheses, may hold spaces; state and parent come after it (proc(5)).
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 2 {
			continue
		}
		ended[pid] = fields[0] == "Z" || fields[0] == "X"
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	list = children[os.Getpid()]
	for i := 0; i < len(list); i++ {
		list = append(list, children[list[i]]...)
		if !ended[list[i]] {
			alive++
		}
	}
	return list, alive
}

// processes lists the ids of all processes.
func processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var list []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			list = append(list, pid)
		}
	}
	return list
}

// setLink brings an interface up or down.
func setLink(name string, set func(netlink.Link) error) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = set(link)
	}
	if err != nil {
		return fmt.Errorf("bring interface %s up or down: %w", name, err)
	}
	return nil
}

// setSysctl tries: what can't be set, as where /proc is read-only, the command has to do without.
func setSysctl(name, value string) { os.WriteFile("/proc/sys/"+name, []byte(value), 0) }
