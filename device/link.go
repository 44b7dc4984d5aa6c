package device

import (
	"sync"
	"time"

	wgtun "golang.zx2c4.com/wireguard/tun"

	"github.com/wice-go/wice-go/tun"
)

// How often the link is looked at, while it is down and while it is up. Events tell of it at once, but not of one in another network namespace,
// and who sets that up may well send a packet next.
const (
	linkPollDown = 100 * time.Millisecond
	linkPollUp   = time.Second
)

// link is the TUN of a drop-in device. Its events that the link is up or down are taken out, since they are not to be trusted on Linux
// ([tun.LinkUp]), and there is more to be started and stopped with them than wireguard-go knows of:
//
//	TUN -> Events -> up, down: Device.followLink -> wireguard-go, then sessions and signaling
//	              -> MTU:      wireguard-go
type link struct {
	wgtun.Device // the inner one
	events       chan wgtun.Event
	start        chan *Device // who follows
	done         sync.WaitGroup
}

const upDown = wgtun.EventUp | wgtun.EventDown

func newLink(inner wgtun.Device) *link {
	l := &link{Device: inner, events: make(chan wgtun.Event), start: make(chan *Device, 1)}
	l.done.Go(l.run)
	return l
}

// Events implements [wgtun.Device].
func (l *link) Events() <-chan wgtun.Event { return l.events }

// follow has the device be up while the link is. It is called once.
func (l *link) follow(d *Device) { l.start <- d }

// wait returns when the device, which is closed by then, is called no more.
func (l *link) wait() { l.done.Wait() }

// run ends with the events of the inner device, and so with its Close. Before the link is up for the first time it counts as such: so it does
// with wireguard-go, on whose sockets scripts rely that bring the link up in another namespace and use it in the next line.
func (l *link) run() {
	defer close(l.events)
	var d *Device
	var told wgtun.Event // the last that an event said
	seen, was := false, false
	tick := time.NewTicker(linkPollUp)
	defer tick.Stop()
	for {
		select {
		case d = <-l.start:
		case <-tick.C:
		case e, open := <-l.Device.Events():
			if !open {
				return
			}
			if e&upDown != 0 {
				told = e
			}
			if e &^= upDown; e != 0 {
				l.events <- e
			}
		}
		if d == nil {
			continue
		}
		up := l.isUp(told)
		seen = seen || up
		if up = up || !seen; up == was {
			continue
		}
		was = up
		d.followLink(up)
		if up {
			tick.Reset(linkPollUp)
		} else {
			tick.Reset(linkPollDown)
		}
	}
}

func (l *link) isUp(told wgtun.Event) bool {
	if up, known := tun.LinkUp(l.File()); known {
		return up
	}
	return told&wgtun.EventUp != 0
}

// followLink brings the interface up or down. As with wireguard-go, a port in use is told to the log alone, once.
func (d *Device) followLink(up bool) {
	d.uapiMu.Lock()
	defer d.uapiMu.Unlock()
	if d.ctx.Err() != nil {
		return
	}
	if !up {
		d.stopLocked()
		if err := d.wg.Down(); err != nil {
			d.log.Error("the link is down, but the interface does not follow", "err", err)
		}
		d.log.Info("the link is down", "interface", d.opts.Name)
		return
	}
	err := d.wg.Up()
	if err == nil {
		err = d.startLocked()
	}
	if err != nil {
		d.log.Error("the link is up, but the interface can't be: set the link down, and up again once this is mended", "err", err)
		return
	}
	d.log.Info("the link is up", "interface", d.opts.Name)
}
