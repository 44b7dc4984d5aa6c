package device

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wice-go/wice-go/device/control"
)

// TestTunnels has a WireGuard of each kind, another VPN, and a network card whose name a userspace daemon has taken too.
func TestTunnels(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	run := t.TempDir()
	t.Setenv(control.EnvRuntimeDir, run)
	for _, path := range []string{"wireguard/plain.sock", "wice-go/ours.sock", "wice-go/card.sock"} {
		path = filepath.Join(run, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and the namespace with the thread
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		for _, name := range []string{"plain", "ours", "vpn"} {
			l := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TUN}
			if err := netlink.LinkAdd(l); err != nil {
				t.Errorf("make %s: %v", name, err)
				return
			}
		}
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "card"}, PeerName: "card-far"}); err != nil {
			t.Errorf("make card: %v", err)
			return
		}
		want := map[string]bool{"self": true, "plain": true, "ours": true, "vpn": false, "card": false, "lo": false, "gone": false}
		if err := netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: "kernel"}}); err == nil {
			want["kernel"] = true
		} else {
			t.Logf("this kernel has no WireGuard: %v", err)
		}
		d := &Device{opts: Options{Name: "self"}}
		for name, tunnel := range want {
			if got := d.isTunnel(name); got != tunnel {
				t.Errorf("%s: got %t, want %t", name, got, tunnel)
			}
		}
		// What ICE over TCP is told of.
		all, err := (&underlay{exclude: d.isTunnel}).Interfaces()
		if err != nil {
			t.Error(err)
		}
		seen := make(map[string]bool)
		for _, i := range all {
			seen[i.Name] = true
		}
		system, err := net.Interfaces()
		if err != nil {
			t.Error(err)
		}
		for _, i := range system {
			if seen[i.Name] == want[i.Name] {
				t.Errorf("%s: listed %t", i.Name, seen[i.Name])
			}
		}
	}()
	<-done
}
