package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	socketSuffix = ".sock"

	pipes          = `\\.\pipe\`
	protectedPipes = pipes + `ProtectedPrefix\Administrators\` // only administrators can make pipes with this prefix
)

// Paths knows where the files of an interface are: for root (an elevated process on Windows) where wg and wg-quick look, for other
// users in their own directories.
type Paths struct {
	GOOS    string              // as runtime.GOOS
	Root    bool                // root, or elevated
	UID     int                 // -1 on Windows
	Getenv  func(string) string // required
	TempDir string              // where a user without a runtime directory gets one
	RunUser string              // the parent of the runtime directories that systemd makes: /run/user

	// Override is the directory for the sockets, whoever the user is. "": what Getenv has for [EnvRuntimeDir].
	Override string
	// SystemDir is where the directories of root's sockets are. "": /var/run. Another one is for tests.
	SystemDir string
}

// EnvRuntimeDir names the variable with a directory for the sockets of all daemons and commands that have it in their environment,
// root's included: a world of its own, as demonstrations and tests need.
const EnvRuntimeDir = "WICE_RUNTIME_DIR"

// envXDGRuntimeDir names the variable with a user's runtime directory (XDG Base Directory Specification).
const envXDGRuntimeDir = "XDG_RUNTIME_DIR"

// SystemPaths returns the paths of this process.
func SystemPaths() Paths {
	return Paths{GOOS: hostOS, Root: isRoot(), UID: os.Getuid(), Getenv: os.Getenv, TempDir: os.TempDir(), RunUser: "/run/user"}
}

var interfaceName = regexp.MustCompile(`^[a-zA-Z0-9_=+.-]{1,15}$`)

// ValidInterface reports whether name can be an interface's.
func ValidInterface(name string) bool {
	return interfaceName.MatchString(name) && name != "." && name != ".."
}

// InterfaceName takes what a user names an interface with: its name, or its file FILE.conf, whose name is the interface's. The
// file is "" for a name alone.
func InterfaceName(arg string) (name, configFile string, err error) {
	name = arg
	if strings.HasSuffix(arg, ".conf") || strings.ContainsAny(arg, `/\`) {
		configFile = arg
		base := arg[strings.LastIndexAny(arg, `/\`)+1:]
		var conf bool
		if name, conf = strings.CutSuffix(base, ".conf"); !conf {
			return "", "", fmt.Errorf("%q is not a configuration file: its name must be that of the interface, followed by .conf", arg)
		}
	}
	if !ValidInterface(name) {
		return "", "", fmt.Errorf("%q is not an interface name: want 1 to 15 of the characters a-z A-Z 0-9 _ = + . -", name)
	}
	return name, configFile, nil
}

// RuntimeDir returns the directory in which a user's sockets have theirs. It may not exist yet.
func (p Paths) RuntimeDir() string {
	if dir := p.override(); dir != "" {
		return dir
	}
	if p.Root {
		if p.SystemDir != "" {
			return p.SystemDir
		}
		return "/var/run"
	}
	if dir := p.Getenv(envXDGRuntimeDir); filepath.IsAbs(dir) { // others are to be ignored (XDG Base Directory Specification)
		return dir
	}
	uid := strconv.Itoa(p.UID)
	dir := filepath.Join(p.RunUser, uid)
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return dir
	}
	return filepath.Join(p.TempDir, "wice-go-"+uid)
}

// WithRuntimeDir returns the paths that a process has with [EnvRuntimeDir] set to dir.
func (p Paths) WithRuntimeDir(dir string) Paths {
	p.Override = dir
	return p
}

// variable names the variable that puts the sockets elsewhere: that which is set, or else would have an effect.
func (p Paths) variable() string {
	if p.Root || p.override() != "" {
		return EnvRuntimeDir
	}
	return envXDGRuntimeDir
}

func (p Paths) override() string {
	if p.Override != "" {
		return p.Override
	}
	if dir := p.Getenv(EnvRuntimeDir); filepath.IsAbs(dir) {
		return dir
	}
	return ""
}

// UAPISocket returns the path of WireGuard's configuration socket, which wg uses.
func (p Paths) UAPISocket(iface string) string { return p.uapiDirs()[0].path(iface) }

// ControlSocket returns the path of the daemon's control socket.
func (p Paths) ControlSocket(iface string) string { return p.controlDirs()[0].path(iface) }

// Journal returns the path of the file that tells what has to be undone after a crash. It lies beside the control socket, and on
// Windows, where that is a pipe, in the user's directory for temporary files.
func (p Paths) Journal(iface string) string {
	if p.GOOS == "windows" {
		return filepath.Join(p.TempDir, "wice-go", iface+".journal")
	}
	return strings.TrimSuffix(p.ControlSocket(iface), socketSuffix) + ".journal"
}

// socketDir is where the sockets of one kind are.
type socketDir struct{ prefix, suffix string }

func (d socketDir) path(iface string) string { return d.prefix + iface + d.suffix }

func unixDir(parts ...string) socketDir {
	return socketDir{filepath.Join(parts...) + "/", socketSuffix}
}

// uapiDirs returns the directories with UAPI sockets, the own one first.
func (p Paths) uapiDirs() []socketDir {
	if p.GOOS == "windows" {
		return p.pipes(`WireGuard\`, `wice-go-uapi\`)
	}
	return p.dirs("wireguard")
}

// controlDirs returns the directories with control sockets, the own one first.
func (p Paths) controlDirs() []socketDir {
	if p.GOOS == "windows" {
		return p.pipes(`wice-go\`, `wice-go\`)
	}
	return p.dirs("wice-go")
}

// pipes returns the prefixes of pipe names. One for a runtime directory has the directory in it, so that each has pipes of its own.
func (p Paths) pipes(system, own string) []socketDir {
	if dir := p.override(); dir != "" {
		return []socketDir{{pipes + own + strings.NewReplacer(`\`, "-", "/", "-", ":", "").Replace(dir) + "-", ""}}
	}
	if p.Root {
		return []socketDir{{protectedPipes + system, ""}}
	}
	return []socketDir{{pipes + own, ""}, {protectedPipes + system, ""}}
}

func (p Paths) dirs(name string) []socketDir {
	own := unixDir(p.RuntimeDir(), name)
	if p.Root || p.override() != "" {
		return []socketDir{own}
	}
	root := p
	root.Root = true
	return []socketDir{own, unixDir(root.RuntimeDir(), name)}
}

// Socket is a socket that exists; whether someone answers on it is not known yet.
type Socket struct{ Interface, Path string }

// UAPISockets returns the UAPI sockets that exist, this user's and root's, by name. Of two with one name it returns this user's.
func (p Paths) UAPISockets() ([]Socket, error) { return sockets(p.uapiDirs()) }

// ControlSockets returns the control sockets that exist, this user's and root's, by name. Of two with one name it returns this user's.
func (p Paths) ControlSockets() ([]Socket, error) { return sockets(p.controlDirs()) }

func sockets(dirs []socketDir) (list []Socket, err error) {
	var errs []error
	for _, d := range dirs {
		names, err := listSockets(d.prefix)
		if err != nil {
			errs = append(errs, fmt.Errorf("list the sockets in %s: %w", d.prefix, err))
			continue
		}
		slices.Sort(names)
		for _, name := range names {
			if !slices.ContainsFunc(list, func(s Socket) bool { return s.Interface == name }) {
				list = append(list, Socket{name, d.path(name)})
			}
		}
	}
	return list, errors.Join(errs...)
}

// HasSocket reports whether a WireGuard of this process's directories or of root's has a socket for the interface, whether or not
// someone answers on it.
func (p Paths) HasSocket(iface string) bool {
	root := p
	root.Root, root.Override, root.Getenv = true, "", func(string) string { return "" }
	for _, d := range slices.Concat(p.uapiDirs(), p.controlDirs(), root.uapiDirs(), root.controlDirs()) {
		if _, err := os.Lstat(d.path(iface)); err == nil {
			return true
		}
	}
	return false
}

// FindUAPI returns where the UAPI socket of the interface is: this user's own path if it exists or no other does, else root's.
func (p Paths) FindUAPI(iface string) string { return find(p.uapiDirs(), iface) }

// FindControl returns where the control socket of the interface is: this user's own path if it exists or no other does, else root's.
func (p Paths) FindControl(iface string) string { return find(p.controlDirs(), iface) }

func find(dirs []socketDir, iface string) string {
	for _, d := range dirs {
		if _, err := os.Lstat(d.path(iface)); err == nil {
			return d.path(iface)
		}
	}
	return dirs[0].path(iface)
}
