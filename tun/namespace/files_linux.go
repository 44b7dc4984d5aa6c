package namespace

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// resolvers are sockets by which the C library asks the system's own resolvers, which do not know the tunnel. Nobody listens on them here.
var resolvers = []string{"/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/var/run/nscd/socket", "/run/avahi-daemon/socket"}

// hideResolvers puts something that is no socket in the place of those that are not hidden yet.
func hideResolvers() error {
	for _, path := range resolvers {
		if there, err := os.Stat(path); err != nil || there.Mode()&fs.ModeSocket == 0 {
			continue
		}
		if err := unix.Mount("/dev/null", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("hide %s: %w", path, err)
		}
	}
	return nil
}

// mountFiles puts files for the namespace's names in the place of the system's, for the processes of the namespace alone. It returns their texts.
func mountFiles(c Config) (texts map[string][]byte, err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	if err := hideResolvers(); err != nil {
		return nil, err
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	texts = map[string][]byte{
		"/etc/resolv.conf": c.resolvConf(),
		"/etc/hosts":       append(hosts, c.hosts()...),
	}
	if os.Geteuid() != 0 {
		addOwn(texts)
	}
	// /proc is there, as this program was started from it, and nothing here needs it meanwhile.
	return texts, mountOver(texts, "/proc")
}

// keepFiles shows texts again where the system has put another file at their place, as it does with resolv.conf when a network comes or goes:
// what was mounted over the former one is gone with it. So it is with resolvers that start anew. It ends with the process.
func keepFiles(texts map[string][]byte) {
	const look = time.Second
	shown := make(map[string]os.FileInfo)
	for path := range texts {
		shown[path], _ = os.Stat(path)
	}
	go func() {
		for range time.Tick(look) { // what fails is tried again
			hideResolvers()
			for path, text := range texts {
				if there, err := os.Stat(path); err != nil || os.SameFile(there, shown[path]) {
					continue
				}
				// The directory is one for mounts, which every /proc has, and which no command looks at.
				if mountOver(map[string][]byte{path: text}, "/proc/fs/nfsd") == nil {
					shown[path], _ = os.Stat(path)
				}
			}
		}
	}()
}

// included are files that ssh refuses unless they are root's or the user's own. In a user namespace that has only the user, root's are nobody's.
var included = []string{"/etc/ssh/ssh_config.d/*.conf", "/etc/crypto-policies/back-ends/openssh.config"}

// addOwn adds copies of the included files, which are the user's own.
func addOwn(texts map[string][]byte) {
	for _, pattern := range included {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			if b, err := os.ReadFile(path); err == nil {
				texts[path] = b
			}
		}
	}
}

// mountOver shows texts at paths. They stand in a file system in memory, which is at dir, and has no place of its own any more when that is done. Its
// files keep their names, since nothing can be mounted over one without, as a namespace inside this one wants to. Where there is no file at a path,
// one can't be shown there: programs do without.
func mountOver(texts map[string][]byte, dir string) (err error) {
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOSUID, "mode=0755"); err != nil {
		return fmt.Errorf("mount a file system in memory: %w", err)
	}
	defer func() {
		if unmountErr := unix.Unmount(dir, unix.MNT_DETACH); unmountErr != nil {
			err = errors.Join(err, fmt.Errorf("unmount it from %s: %w", dir, unmountErr))
		}
	}()
	for path, text := range texts {
		target, err := filepath.EvalSymlinks(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		file := filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(file, text, 0o644); err != nil {
			return err
		}
		if err := os.Chmod(file, 0o644); err != nil { // whatever the umask is
			return err
		}
		if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount over %s: %w", path, err)
		}
	}
	return nil
}

func (c Config) resolvConf() []byte {
	var b bytes.Buffer
	if len(c.SearchDomains) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(c.SearchDomains, " "))
	}
	for _, a := range c.DNS {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	if len(c.DNS) == 0 {
		// The C library asks loopback then, where nobody answers, so that names fail at once.
		fmt.Fprintf(&b, "# The configuration of %s has no DNS line.\n", c.Interface)
	}
	return b.Bytes()
}

func (c Config) hosts() []byte {
	var b bytes.Buffer
	b.WriteByte('\n') // the last of the other lines may have none
	for _, name := range slices.Sorted(maps.Keys(c.Hosts)) {
		if strings.ContainsAny(name, " #") {
			continue // it can't be written here: its words would be names
		}
		for _, a := range c.Hosts[name] {
			fmt.Fprintf(&b, "%s %s\n", a, name)
		}
	}
	return b.Bytes()
}

// sendFile sends an empty answer and a file with it.
func sendFile(c *net.UnixConn, f *os.File) error {
	raw, err := f.SyscallConn() // File.Fd would have it block
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Control(func(fd uintptr) {
		_, _, sendErr = c.WriteMsgUnix([]byte("{}\n"), unix.UnixRights(int(fd)), nil)
	})
	return errors.Join(err, sendErr)
}

// receiveFiles returns the beginning of an answer, and the files that came with it.
func receiveFiles(c *net.UnixConn) (answer bytes.Buffer, files []*os.File, err error) {
	text, control := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	n, controlled, flags, _, err := c.ReadMsgUnix(text, control)
	if err != nil {
		return answer, nil, errStage
	}
	messages, err := unix.ParseSocketControlMessage(control[:controlled])
	if err != nil || flags&unix.MSG_CTRUNC != 0 {
		return answer, nil, errStage
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "interface of the namespace"))
		}
	}
	answer.Write(text[:n])
	return answer, files, nil
}
