package tun

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// userName is an interface with a name as long as they get.
const userName = "wg0.internal.xy"

// An ordinary user without access to /dev/net/tun makes an interface in a user namespace. The device is outside of it.
func TestOpenFileAsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to become an ordinary user")
	}
	self, err := os.Open(os.Args[0]) // it may lie where nobody can't reach it
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(ends[1]), "socket")
	defer theirs.Close()
	ours := os.NewFile(uintptr(ends[0]), "socket")
	defer ours.Close()
	var output bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "--net", "/proc/self/fd/3")
	cmd.ExtraFiles, cmd.Dir, cmd.Env = []*os.File{self, theirs}, "/", []string{childEnv + "=open-file"}
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	file, err := receiveFile(ours)
	if err != nil {
		cmd.Process.Kill()
		t.Fatalf("%v, %v\n%s", err, cmd.Wait(), output.Bytes())
	}
	dev, err := FromFile(file, DefaultMTU)
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatal(err)
	}
	if name, err := dev.Name(); name != "wg0.internal.x" || err != nil {
		t.Errorf("name: got %q, %v", name, err)
	}
	packets := mirror(t, dev)
	if _, err := ours.Write([]byte{1}); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, output.Bytes())
	}
	if packets.Load() == 0 {
		t.Error("nothing has come through the device")
	}
}

// receiveFile takes a file from the other end of a Unix socket.
func receiveFile(socket *os.File) (*os.File, error) {
	control := make([]byte, unix.CmsgSpace(4))
	n, controlSize, _, _, err := unix.Recvmsg(int(socket.Fd()), make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n == 0 {
		return nil, fmt.Errorf("no file has come: %d bytes, %w", n, err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:controlSize])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("%d messages, %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("%d files, %w", len(fds), err)
	}
	return os.NewFile(uintptr(fds[0]), "interface"), nil
}

// playOpenFile is what the test binary does in a user namespace: it makes an interface, sends its file through the socket that is its fourth file,
// sets the interface up, and speaks through it with its mirror.
func playOpenFile() error {
	file, err := OpenFile(userName, 0)
	if err != nil {
		return err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Control(func(fd uintptr) { sendErr = unix.Sendmsg(4, []byte{1}, unix.UnixRights(int(fd)), nil, 0) })
	if err = errors.Join(err, sendErr, file.Close()); err != nil {
		return err
	}
	if _, err := unix.Read(4, make([]byte, 1)); err != nil { // what is sent before the device is there may be lost
		return err
	}
	dir, err := os.MkdirTemp("", "wice-tun-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	j, err := OpenJournal(filepath.Join(dir, "run", "journal"))
	if err != nil {
		return err
	}
	config := Config{Addresses: prefixes("10.1.0.1/24", "fd00:1::1/64"), Routes: prefixes("0.0.0.0/0", "::/0"), Table: 254}
	configured, err := Configure(userName, config, j)
	if err != nil {
		return err
	}
	for _, pair := range [][2]string{{"10.1.0.1", "10.1.0.2"}, {"fd00:1::1", "fd00:1::2"}, {"10.1.0.1", "203.0.113.77"}, {"fd00:1::1", "2001:db8::77"}} {
		if err := speak(pair[0], pair[1]); err != nil {
			return fmt.Errorf("%s to %s: %w", pair[0], pair[1], err)
		}
	}
	return errors.Join(configured.Close(), j.Close())
}

// speak sends data over TCP and a datagram from a local address to one whose packets come back to it.
func speak(local, remote string) error {
	deadline := time.Now().Add(30 * time.Second)
	l, err := net.Listen("tcp", net.JoinHostPort(local, "0"))
	if err != nil {
		return err
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	to := netip.AddrPortFrom(netip.MustParseAddr(remote), port)
	out, err := net.DialTimeout("tcp", to.String(), 10*time.Second)
	if err != nil {
		return err
	}
	defer out.Close()
	in, err := l.Accept()
	if err != nil {
		return err
	}
	defer in.Close()
	data := bytes.Repeat([]byte("0123456789abcdefg"), 100000)
	var sending sync.WaitGroup
	sending.Go(func() {
		out.Write(data)
		out.Close()
	})
	defer sending.Wait()
	in.SetReadDeadline(deadline)
	if got, err := io.ReadAll(in); err != nil || !bytes.Equal(got, data) {
		return fmt.Errorf("TCP: got %d bytes of %d, %w", len(got), len(data), err)
	}

	inUDP, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(local), port)))
	if err != nil {
		return err
	}
	defer inUDP.Close()
	if _, err := inUDP.WriteToUDPAddrPort(data[:3000], to); err != nil {
		return err
	}
	inUDP.SetReadDeadline(deadline)
	got := make([]byte, 4000)
	if n, from, err := inUDP.ReadFromUDPAddrPort(got); err != nil || from != to || !bytes.Equal(got[:n], data[:3000]) {
		return fmt.Errorf("UDP: got %d bytes from %s, %w", n, from, err)
	}
	return nil
}
