package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"github.com/wice-go/wice-go/device/control"
)

// needWG skips where the real wg can't be asked, and returns an app that looks where it does.
func needWG(t *testing.T) *testApp {
	t.Helper()
	if _, err := exec.LookPath("wg"); err != nil {
		t.Skip("needs wg (wireguard-tools)")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: wg looks for sockets in /var/run/wireguard alone")
	}
	a := newTestApp(t, "")
	a.paths = control.SystemPaths()
	return a
}

// compare has both programs show everything, and wants the same bytes.
func compare(t *testing.T, name string) {
	t.Helper()
	requests := [][]string{{name}}
	for _, field := range strings.Fields(showFields) {
		requests = append(requests, []string{name, field})
		if field != "endpoints" { // older versions of wg forget the interface's name there, but for the first peer
			requests = append(requests, []string{"all", field})
		}
	}
	for _, environment := range [][]string{{"WG_COLOR_MODE", "never"}, {"WG_COLOR_MODE", "always"}, {"WG_HIDE_KEYS", "never"}} {
		for _, request := range requests {
			var want, got string
			for range 5 { // the clock may tick between the two
				want, got = showBoth(t, environment, request)
				if request[0] == "all" {
					want, got = linesOf(name, want), linesOf(name, got)
				}
				if got == want {
					break
				}
			}
			if got != want || want == "" {
				t.Errorf("%v show %v:\ngot  %q\nwant %q", environment, request, got, want)
			}
		}
	}
}

func showBoth(t *testing.T, environment, request []string) (want, got string) {
	t.Helper()
	cmd := exec.Command("wg", append([]string{"show"}, request...)...)
	cmd.Env = append(os.Environ(), environment[0]+"="+environment[1])
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd, err)
	}
	a := newTestApp(t, "", environment...)
	a.paths = control.SystemPaths()
	if code := a.run(append([]string{"show"}, request...)); code != exitOK {
		t.Fatalf("show %v: exit %d: %s", request, code, a.errs.String())
	}
	return string(out), a.out.String()
}

// linesOf leaves out the interfaces that happen to be there.
func linesOf(name, s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		if strings.HasPrefix(line, name+"\t") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestShowEqualsWG(t *testing.T) {
	a := needWG(t)
	name := fmt.Sprintf("wt%d", os.Getpid())
	serveUAPI(t, a.paths.UAPISocket(name), uapiAnswer(time.Now().Unix()-400*86400-7322))
	compare(t, name)
}

// TestShowEqualsWGForDevice asks a real device, whose peers come in a random order, so it has one.
func TestShowEqualsWGForDevice(t *testing.T) {
	needWG(t)
	name := fmt.Sprintf("wd%d", os.Getpid())
	dev := device.NewDevice(tuntest.NewChannelTUN().TUN(), conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(dev.Close)
	if err := dev.IpcSet("private_key=" + hexPrivate + "\npublic_key=" + hexPeer2 + "\nendpoint=192.0.2.1:51820\npersistent_keepalive_interval=25\nallowed_ip=10.0.0.2/32\n"); err != nil {
		t.Fatal(err)
	}
	file, err := ipc.UAPIOpen(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	l, err := ipc.UAPIListen(name, file)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go dev.IpcHandle(c)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	compare(t, name)
}
