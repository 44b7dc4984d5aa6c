package e2e

import (
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
)

// snapshot is what a daemon could leave behind on its host.
type snapshot map[string]string

// snapshot looks at links, addresses, routes, rules, packet filter, resolver, sockets and processes.
func (n *node) snapshot() snapshot {
	n.w.t.Helper()
	s := make(snapshot)
	for _, command := range []string{
		"ip -j link", "ip -j addr", "ip -j -4 route show table all", "ip -j -6 route show table all",
		"ip -j -4 rule", "ip -j -6 rule", "nft list ruleset", "cat /etc/resolv.conf", "cat /proc/sys/net/ipv4/conf/all/src_valid_mark",
	} {
		args := strings.Fields(command)
		r := n.run(args[0], args[1:]...)
		s[command] = r.stdout + r.stderr
	}
	root, err := n.host.Path("/run")
	if err != nil {
		n.w.t.Fatal(err)
	}
	var files []string
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, path)
		switch {
		case err != nil:
			return err
		case rel == "natlab", rel == "log", rel == "nobody/wice-go/log": // the lab's own; logs stay
			return fs.SkipDir
		case !d.IsDir(): // the directories of sockets may stay
			files = append(files, rel)
		}
		return nil
	})
	if err != nil {
		n.w.t.Fatal(err)
	}
	s["files in /run"] = strings.Join(files, "\n")
	s["processes"] = strings.Join(slices.Sorted(maps.Values(n.processes())), "\n")
	return s
}

// cleanLimit is how long the end of a daemon may take: 2 s at the most for what it waits for, and the rest is a busy machine's.
const cleanLimit = 10 * time.Second

// asBefore waits until the host is as it was.
func (n *node) asBefore(before snapshot, limit time.Duration) {
	n.w.t.Helper()
	n.w.until(limit, n.name+" is as before", func() (bool, string) {
		d := cmp.Diff(before, n.snapshot())
		return d == "", fmt.Sprintf("(-before +after)\n%s", d)
	})
}
