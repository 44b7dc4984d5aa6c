package config

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A file that is saved stays its owner's and its group's, with its mode, and the link to it stays; without the right to give the file to its group
// the mode gives no other one anything.
func TestSaveFileKeepsAccess(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: others can't give files away")
	}
	for name, tt := range map[string]struct {
		may            bool
		uid, gid, mode uint32
	}{
		"permitted":     {true, 65534, 65533, 0o640},
		"not permitted": {false, 0, 0, 0o600},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path, link := filepath.Join(dir, "real", "wg0.conf"), filepath.Join(dir, "wg0.conf")
			for _, err := range []error{
				os.Mkdir(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(savedFile), 0o600), os.Chmod(path, 0o640), os.Chown(path, 65534, 65533),
				os.Symlink("real/wg0.conf", link),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			c, err := Parse(link, strings.NewReader(savedFile))
			if err != nil {
				t.Fatal(err)
			}
			c.Interface.FwMark = 7
			saved := make(chan error)
			go func() {
				if !tt.may {
					runtime.LockOSThread() // never unlocked: the thread ends, and with it what it is without
					if err := limitTo(unix.CAP_DAC_OVERRIDE); err != nil {
						saved <- err
						return
					}
				}
				saved <- c.SaveFile(link)
			}()
			if err := <-saved; err != nil {
				t.Fatal(err)
			}
			if to, err := os.Readlink(link); err != nil || to != "real/wg0.conf" {
				t.Errorf("the link: got %q, %v", to, err)
			}
			if b, err := os.ReadFile(path); err != nil || !strings.Contains(string(b), "FwMark = 0x7") {
				t.Errorf("got %s, %v", b, err)
			}
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil || st.Uid != tt.uid || st.Gid != tt.gid || st.Mode&0o777 != tt.mode {
				t.Errorf("got user %d, group %d, mode %o, %v, want %+v", st.Uid, st.Gid, st.Mode&0o777, err, tt)
			}
		})
	}
}

// limitTo leaves this thread one capability.
func limitTo(capability int) error {
	set := [2]unix.CapUserData{{Effective: 1 << capability, Permitted: 1 << capability}} // of version 3
	return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &set[0])
}
