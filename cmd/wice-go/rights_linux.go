package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// dropCapabilities leaves all threads of this process the capabilities that are needed, and returns their names; none if there was nothing to give
// up, or only what holds in a user namespace.
//
// Programs that the daemon runs get no more than it has itself, unless there are commands: by execve root gets all that is in the bounding set,
// which stays then, and under PR_SET_NO_NEW_PRIVS, as from units of systemd, no more than is permitted to the daemon.
func dropCapabilities(need rights) (kept []string, err error) {
	before := cap.GetProc()
	if before.String() == cap.NewSet().String() || inUserNamespace() {
		return nil, nil
	}
	// Marks, and routes and rules that change or go away; ports below 1024, of WireGuard or of forwards.
	keep := []cap.Value{cap.NET_ADMIN, cap.NET_BIND_SERVICE}
	if need.ping {
		keep = append(keep, cap.NET_RAW) // also for an iptables that is not nft's, which talks over a raw socket
	}
	if need.save && foreign(need.file) {
		keep = append(keep, cap.CHOWN) // what is saved stays its owner's, and its group's
	}
	all := values(func(cap.Value) bool { return true })
	if need.file != "" {
		// Whether it takes CAP_DAC_OVERRIDE only an attempt without it tells.
		if err := limit(before, all, append(slices.Clone(keep), cap.SETPCAP)); err != nil {
			return nil, err
		}
		if !accessible(need.file, need.save) {
			keep = append(keep, cap.DAC_OVERRIDE)
		}
	}
	permitted := keep
	if !need.commands {
		if err := bound(values(func(v cap.Value) bool { return !slices.Contains(keep, v) })); err != nil {
			return nil, err
		}
	} else if bounded, err := cap.Prctl(unix.PR_GET_NO_NEW_PRIVS); err != nil || bounded != 0 {
		permitted = all // what execve gives has to be permitted here
	} else {
		// What a daemon that is not root's hands to its commands.
		permitted = append(slices.Clone(keep), values(func(v cap.Value) bool { is, err := cap.GetAmbient(v); return err == nil && is })...)
	}
	if err := limit(before, permitted, keep); err != nil {
		return nil, err
	}
	now := cap.GetProc()
	for _, v := range values(func(v cap.Value) bool { is, err := now.GetFlag(cap.Effective, v); return err == nil && is }) {
		kept = append(kept, v.String())
	}
	return kept, nil
}

// values returns the capabilities that the kernel knows and that match.
func values(match func(cap.Value) bool) (list []cap.Value) {
	for v := range cap.MaxBits() {
		if match(v) {
			list = append(list, v)
		}
	}
	return list
}

// limit makes the capabilities those of before that are among permitted, and in effect those that are among effective.
func limit(before *cap.Set, permitted, effective []cap.Value) error {
	set := cap.NewSet()
	for flag, among := range map[cap.Flag][]cap.Value{cap.Permitted: permitted, cap.Inheritable: permitted, cap.Effective: effective} {
		for _, v := range among {
			had, err := before.GetFlag(flag, v)
			if err == nil {
				err = set.SetFlag(flag, had, v)
			}
			if err != nil {
				return fmt.Errorf("capability %s: %w", v, err)
			}
		}
	}
	if err := set.SetProc(); err != nil {
		return fmt.Errorf("set the capabilities %s: %w", set, err)
	}
	return nil
}

// bound keeps these from whatever this process executes.
func bound(others []cap.Value) error {
	may, err := cap.GetProc().GetFlag(cap.Effective, cap.SETPCAP)
	if err == nil && may { // else what follows has to do
		err = cap.DropBound(others...)
	}
	if err != nil {
		return fmt.Errorf("drop capabilities from the bounding set: %w", err)
	}
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return fmt.Errorf("set PR_SET_NO_NEW_PRIVS: %w", err)
	}
	return nil
}

// accessible reports whether the capabilities in effect, and who this is, suffice to read the file and, if it is saved, to put another one in its
// place. Before Linux 5.8 nobody can tell the latter.
func accessible(file string, saved bool) bool {
	f, err := os.Open(file)
	if err != nil {
		return !errors.Is(err, fs.ErrPermission)
	}
	_ = f.Close() // only read
	if !saved {
		return true
	}
	target, err := filepath.EvalSymlinks(file)
	if err != nil {
		return !errors.Is(err, fs.ErrPermission)
	}
	return !errors.Is(unix.Faccessat(unix.AT_FDCWD, filepath.Dir(target), unix.W_OK|unix.X_OK, unix.AT_EACCESS), unix.EACCES)
}

// foreign reports whether the file has another owner or group than what this process makes.
func foreign(file string) bool {
	var st unix.Stat_t
	return unix.Stat(file, &st) == nil && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid())
}

// inUserNamespace reports whether the users of this process are not those of the machine, one for one.
func inUserNamespace() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(text)), " ") != "0 0 4294967295"
}
