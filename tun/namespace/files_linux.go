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

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// setLoopbackUp brings up "lo", which is down in a new namespace.
func setLoopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("bring up loopback: %w", err)
	}
	return nil
}

// resolvers are sockets by which the C library asks the system's own resolver, which does not know the tunnel. Nobody listens on them here.
var resolvers = []string{"/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/var/run/nscd/socket"}

// mountFiles puts files for the namespace's names in the place of the system's, for the processes of the namespace alone.
func mountFiles(c Config) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, socket := range resolvers {
		if _, err := os.Lstat(socket); err == nil {
			if err := unix.Mount("/dev/null", socket, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("hide %s: %w", socket, err)
			}
		}
	}
	// The files are in a file system of their own, which no path leads to in the end. There they keep their names: nothing could be mounted over a
	// file without one, as what makes namespaces inside this one does.
	dir := os.TempDir()
	if err := unix.Mount("wice-go", dir, "tmpfs", 0, "mode=0755,size=16m"); err != nil {
		return fmt.Errorf("mount a file system: %w", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if err := mountOver("/etc/resolv.conf", dir, c.resolvConf()); err != nil {
		return err
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return mountOver("/etc/hosts", dir, append(hosts, c.hosts()...))
}

// mountOver shows text at path, by a file in dir. Where there is no file at path, one can't be shown there: programs do without.
func mountOver(path, dir string, text []byte) error {
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	file := filepath.Join(dir, filepath.Base(path))
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return err
	}
	if err := os.Chmod(file, 0o644); err != nil { // whatever the umask
		return err
	}
	if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount over %s: %w", path, err)
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
