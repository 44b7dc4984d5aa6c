package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"

	"github.com/wice-go/wice-go/device/control"
)

const (
	// tellEvery is the time between two looks at the peers, and so the least between two texts for systemd.
	tellEvery = 5 * time.Second
	// tellShare is how much longer than a look the time to the next one is at least: with 10,000 peers it takes some 80 ms.
	tellShare = 500
)

// notifyEnv are the variables of sd_notify(3), which are for this process alone.
var notifyEnv = []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}

// notify tells systemd what becomes of a daemon in the foreground, where it asks for that (sd_notify(3)). A daemon in the background is not
// the process that systemd asks.
func (r *running) notify(state string) {
	if r.flags.readyFD != 0 {
		return
	}
	if _, err := sdnotify.SdNotify(false, state); err != nil {
		r.log.Warn("systemd can't be told", "state", state, "err", err)
	}
}

// teller tells systemd how the peers are, for "systemctl status", with tell whenever that is due, if it has changed; nil: never.
func (r *running) teller(ctx context.Context) (due <-chan time.Time, tell func(), stop func() bool) {
	if r.flags.readyFD != 0 || os.Getenv("NOTIFY_SOCKET") == "" {
		return nil, nil, func() bool { return false }
	}
	var last string
	t := time.NewTimer(0)
	tell = func() {
		start := time.Now()
		if s, err := r.dev.Status(ctx); err == nil && summary(s) != last {
			last = summary(s)
			r.notify("STATUS=" + last)
		}
		t.Reset(max(tellEvery, tellShare*time.Since(start)))
	}
	return t.C, tell, t.Stop
}

// summary says in one line, with the words of "wice-go status", how the peers are.
func summary(s *control.Status) string {
	var relayed int
	count := make(map[control.PeerState]int)
	for n := range s.Peers {
		p := &s.Peers[n]
		count[p.State]++
		if p.State == control.StateConnected && p.Path != nil && p.Path.Kind == control.PathRelay {
			relayed++
		}
	}
	text := "no peers"
	if all := len(s.Peers); all > 0 {
		text = fmt.Sprintf("%d of %d peers connected", count[control.StateConnected], all)
	}
	if relayed > 0 {
		text += fmt.Sprintf(" (%d relayed)", relayed)
	}
	for _, state := range []control.PeerState{control.StateConnecting, control.StateFailed, control.StateIdle, control.StatePlain} {
		if n := count[state]; n > 0 {
			text += fmt.Sprintf(", %d %s", n, state)
		}
	}
	down := make([]string, 0, len(s.Signaling))
	for _, b := range s.Signaling {
		if !b.Connected {
			down = append(down, b.Backend)
		}
	}
	if len(down) > 0 {
		text += "; signaling not connected: " + strings.Join(down, ", ")
	}
	return text
}

// reloading tells systemd that a reload begins; the returned function that it has ended.
func (r *running) reloading() (done func()) {
	r.notify(sdnotify.SdNotifyReloading + "\n" + sdnotify.SdNotifyMonotonicUsec()) // the time is for Type=notify-reload
	return func() { r.notify(sdnotify.SdNotifyReady) }
}

// watchdog ticks when systemd is to be told that the daemon is well, twice in the time that it waits; nil: never.
func (r *running) watchdog() (tick <-chan time.Time, stop func()) {
	interval, err := sdnotify.SdWatchdogEnabled(false)
	if err != nil {
		r.log.Warn("no watchdog", "err", err)
	}
	if interval < 2 || r.flags.readyFD != 0 {
		return nil, func() {}
	}
	t := time.NewTicker(interval / 2)
	return t.C, t.Stop
}

// alive tells systemd that WireGuard answers. Where it hangs, so does this.
func (r *running) alive() {
	if _, err := r.dev.UAPIState(); err == nil {
		r.notify(sdnotify.SdNotifyWatchdog)
	}
}
