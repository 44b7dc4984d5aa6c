package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// dropCase is the argument of dropHere.
type dropCase struct {
	Ping, Commands bool
	File           string
	Unsaved        bool // it is only read
	NoNew          bool // the process is under PR_SET_NO_NEW_PRIVS already
}

// dropped is what dropHere prints.
type dropped struct {
	Kept    []string
	Threads []string // what their "status" files say of rights, each text once
	Child   string   // what that of a program says
}

var rightsLines = regexp.MustCompile(`(?m)^(Cap(?:Prm|Eff|Bnd)|NoNewPrivs):\t0*(.+)$`)

// rightsText is the part of a "status" file that is about rights: permitted, effective, bounding, no new privileges.
func rightsText(status []byte) string {
	var parts []string
	for _, m := range rightsLines.FindAllSubmatch(status, -1) {
		parts = append(parts, string(m[2]))
	}
	return strings.Join(parts, " ")
}

// dropHere drops the capabilities of this process, which has more threads than it needs. It is a program of its own (see TestMain): nothing
// would bring them back to the test.
func dropHere() {
	d, err := dropWith(os.Args[1])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(d)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func dropWith(argument string) (d dropped, err error) {
	var c dropCase
	if err := json.Unmarshal([]byte(argument), &c); err != nil {
		return d, err
	}
	hold, ready := make(chan struct{}), make(chan struct{})
	defer close(hold)
	thread := func() {
		runtime.LockOSThread()
		ready <- struct{}{}
		<-hold
	}
	for range 8 {
		go thread()
		<-ready
	}
	if c.NoNew {
		if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
			return d, err
		}
	}
	if d.Kept, err = dropCapabilities(rights{ping: c.Ping, commands: c.Commands, file: c.File, save: !c.Unsaved}); err != nil {
		return d, err
	}
	go thread() // what is new has them from what is old
	<-ready
	files, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(files) < 10 {
		return d, fmt.Errorf("threads: %v, %w", files, err)
	}
	for _, file := range files {
		status, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		if text := rightsText(status); !slices.Contains(d.Threads, text) {
			d.Threads = append(d.Threads, text)
		}
	}
	out, err := exec.Command("cat", "/proc/self/status").Output()
	d.Child = rightsText(out)
	return d, err
}

func TestDropCapabilities(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: others have nothing to drop")
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if inUserNamespace() {
		t.Skip("needs root outside of user namespaces")
	}
	all := strings.Fields(rightsText(status))[2]
	own := t.TempDir()
	file := func(name string, owner, group int) string {
		path := filepath.Join(own, name, "wg0.conf")
		for _, err := range []error{os.Mkdir(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600), os.Chown(path, owner, group), os.Chown(filepath.Dir(path), owner, group)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	const bind, admin, raw, override, chown = "cap_net_bind_service", "cap_net_admin", "cap_net_raw", "cap_dac_override", "cap_chown"
	only := func(set string, kept ...string) dropped {
		text := fmt.Sprintf("%s %[1]s %[1]s 1", set)
		return dropped{kept, []string{text}, text}
	}
	mine, lent, shared := file("mine", 0, 0), file("lent", 65534, 65534), file("shared", 0, 65534)
	user := &syscall.Credential{Uid: 65534, Gid: 65534}
	service := &syscall.SysProcAttr{Credential: user, AmbientCaps: []uintptr{uintptr(cap.CHOWN), uintptr(cap.NET_ADMIN)}}
	one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65534, Size: 1}}
	inside := fmt.Sprintf("%x %[1]x %[1]x 0", uint64(1)<<cap.MaxBits()-1)
	for _, c := range []struct {
		name string
		dropCase
		as   *syscall.SysProcAttr // nil: root
		want dropped
	}{
		{"userspace stack", dropCase{}, nil, only("1400", bind, admin)},
		{"kernel TUN", dropCase{Ping: true, File: mine}, nil, only("3400", bind, admin, raw)},
		{"no file", dropCase{File: filepath.Join(own, "none")}, nil, only("1400", bind, admin)},
		{"file of another user", dropCase{File: lent}, nil, only("1403", chown, override, bind, admin)},
		{"file of another group", dropCase{File: shared}, nil, only("1401", chown, bind, admin)},
		{"file of another user, only read", dropCase{File: lent, Unsaved: true}, nil, only("1402", override, bind, admin)},
		{"file of another group, only read", dropCase{File: shared, Unsaved: true}, nil, only("1400", bind, admin)},
		{"commands", dropCase{Ping: true, Commands: true}, nil,
			dropped{[]string{bind, admin, raw}, []string{"3400 3400 " + all + " 0"}, fmt.Sprintf("%s %[1]s %[1]s 0", all)}},
		{"commands under a unit", dropCase{Commands: true, NoNew: true}, nil,
			dropped{[]string{bind, admin}, []string{all + " 1400 " + all + " 1"}, fmt.Sprintf("%s %[1]s %[1]s 1", all)}},
		{"user of a service", dropCase{Ping: true}, service,
			dropped{[]string{admin}, []string{"1000 1000 " + all + " 1"}, "1000 1000 " + all + " 1"}},
		{"user of a service, with commands", dropCase{Commands: true}, service,
			dropped{[]string{admin}, []string{"1001 1000 " + all + " 0"}, "1001 1001 " + all + " 0"}},
		{"user", dropCase{Ping: true}, &syscall.SysProcAttr{Credential: user},
			dropped{nil, []string{"0 0 " + all + " 0"}, "0 0 " + all + " 0"}},
		{"root of a user namespace", dropCase{Ping: true},
			&syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, Credential: &syscall.Credential{NoSetGroups: true}, UidMappings: one, GidMappings: one},
			dropped{nil, []string{inside}, inside}},
	} {
		t.Run(c.name, func(t *testing.T) {
			argument, err := json.Marshal(c.dropCase)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("/proc/self/exe")
			cmd.Args = []string{"drop-here", string(argument)}
			cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0") // else the race detector waits for a second
			cmd.SysProcAttr = c.as
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, &stderr)
			}
			var got dropped
			if err := json.Unmarshal(out, &got); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// An interface that other tools have set up is not one for "wice-go up".
func TestForLackOfRights(t *testing.T) {
	for dropIn, want := range map[bool]string{false: "wice-go down wg0 && wice-go up wg0)", true: "or make the interface anew)"} {
		r := running{name: "wg0", dropIn: dropIn, gaveUp: true}
		if err := r.forLackOfRights(fs.ErrPermission); !errors.Is(err, fs.ErrPermission) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("got %v, want an end of %q", err, want)
		}
	}
}
