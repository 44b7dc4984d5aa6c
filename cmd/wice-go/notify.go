package main

import (
	"time"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"
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
