package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ConfigFiles returns the paths at which an interface's configuration may be, the preferred one first.
func (p Paths) ConfigFiles(iface string) []string {
	var dirs []string
	if p.GOOS == "windows" {
		if dir := p.Getenv("APPDATA"); dir != "" && !p.Root {
			dirs = append(dirs, dir+`\wireguard`)
		}
		if dir := p.Getenv("ProgramData"); dir != "" {
			dirs = append(dirs, dir+`\wireguard`)
		}
		for n := range dirs {
			dirs[n] += `\` + iface + ".conf"
		}
		return dirs
	}
	if !p.Root {
		home := p.Getenv("XDG_CONFIG_HOME")
		if !filepath.IsAbs(home) {
			home = filepath.Join(p.Getenv("HOME"), ".config")
		}
		if filepath.IsAbs(home) {
			dirs = append(dirs, filepath.Join(home, "wireguard"))
		}
	}
	dirs = append(dirs, "/etc/wireguard")
	switch p.GOOS {
	case "darwin":
		dirs = append(dirs, "/usr/local/etc/wireguard", "/opt/homebrew/etc/wireguard")
	case "freebsd":
		dirs = append(dirs, "/usr/local/etc/wireguard")
	}
	for n := range dirs {
		dirs[n] = filepath.Join(dirs[n], iface+".conf")
	}
	return dirs
}

// FindConfig returns the first configuration of the interface that exists and can be read. The error says where was looked, and
// wraps [fs.ErrNotExist] or [fs.ErrPermission].
func (p Paths) FindConfig(iface string) (string, error) {
	files := p.ConfigFiles(iface)
	var denied error
	for _, file := range files {
		f, err := os.Open(file)
		if err == nil {
			f.Close()
			return file, nil
		}
		if errors.Is(err, fs.ErrPermission) && denied == nil {
			denied = fmt.Errorf("the configuration %s can't be read: %w: run this as root, or put a copy at %s", file, fs.ErrPermission, files[0])
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", fmt.Errorf("%s has no configuration: %w at %s", iface, fs.ErrNotExist, strings.Join(files, ", "))
}

// LogDir returns where daemons in the background keep their logs.
func (p Paths) LogDir() string {
	switch {
	case p.override() != "":
		return filepath.Join(p.override(), "log")
	case p.Root && p.GOOS != "windows":
		return "/var/log/wice-go"
	case p.homeless():
		return filepath.Join(p.RuntimeDir(), "wice-go", "log")
	}
	return filepath.Join(p.stateDir(), "log")
}

// homeless reports whether the user has no directory for what is to be kept, as users of services and in containers.
func (p Paths) homeless() bool {
	if p.GOOS == "windows" || filepath.IsAbs(p.Getenv("XDG_STATE_HOME")) {
		return false
	}
	info, err := os.Stat(p.Getenv("HOME"))
	return err != nil || !info.IsDir()
}

// RendezvousStateDir returns where a rendezvous keeps its identity.
func (p Paths) RendezvousStateDir() string { return filepath.Join(p.stateDir(), "rendezvous") }

// stateDir returns where things are that outlive a restart of the machine and that nobody edits.
func (p Paths) stateDir() string {
	const name = "wice-go"
	switch {
	case p.GOOS == "windows" && p.Root:
		return filepath.Join(p.Getenv("ProgramData"), name)
	case p.GOOS == "windows":
		return filepath.Join(p.Getenv("LOCALAPPDATA"), name)
	case p.Root && p.GOOS == "linux":
		return filepath.Join("/var/lib", name)
	case p.Root:
		return filepath.Join("/var/db", name)
	}
	if dir := p.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, name)
	}
	if p.GOOS == "darwin" {
		return filepath.Join(p.Getenv("HOME"), "Library", "Application Support", name)
	}
	return filepath.Join(p.Getenv("HOME"), ".local", "state", name)
}
