package netstack

import (
	"context"
	"net"
)

// acceptTCP takes a connection only once the last one has its slot: others wait in the listener's queue.
func (w *Forwarding) acceptTCP(l net.Listener) {
	var failing pause
	for {
		c, err := l.Accept()
		if err != nil {
			if !failing.wait(w.ctx, err) {
				return
			}
			if failing.first() {
				w.log.Warn("forward: accept failed, trying again", "err", err)
			}
			continue
		}
		failing = pause{}
		select {
		case w.slots <- struct{}{}:
		case <-w.ctx.Done():
			c.Close()
			return
		}
		w.tasks.Go(func() {
			defer func() { <-w.slots }()
			w.carryTCP(c)
		})
	}
}

// carryTCP connects to the target and carries the connection there. A failure is passed on as a reset.
func (w *Forwarding) carryTCP(in net.Conn) {
	defer in.Close()
	ctx, cancel := context.WithTimeout(w.ctx, forwardDialTimeout)
	out, err := w.dial(ctx, "tcp", w.forward.Target)
	cancel()
	if err != nil {
		if w.ctx.Err() == nil {
			w.log.Warn("forward: target not reached", "err", err)
		}
		w.stack.reset(err, in)
		return
	}
	w.stack.carry(w.ctx, in, out)
}
