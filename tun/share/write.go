package share

import (
	"errors"

	wgtun "golang.zx2c4.com/wireguard/tun"
)

// inner is the index of the inner stack among the destinations of a batch; that of an attached one is its own plus one.
const inner = 0

// sorted is a batch by destination. The batches that it holds are used again.
type sorted [maxPorts + 1][][]byte

// Write implements [wgtun.Device]. An error is the inner device's: what attached stacks can't take is lost.
func (d *Device) Write(bufs [][]byte, offset int) (int, error) {
	t := d.table.Load()
	if t == nil {
		return d.Inner.Write(bufs, offset)
	}
	s := d.borrow()
	defer d.giveBack(s)
	for _, b := range bufs {
		p := parse(b[offset:])
		if p.everyone {
			for i, port := range t.ports {
				if port != nil {
					s[i+1] = append(s[i+1], append(make([]byte, 0, len(b)), b...)) // devices may change what they write
				}
			}
			s[inner] = append(s[inner], b)
			continue
		}
		to := d.destination(t, &p)
		s[to] = append(s[to], b)
	}
	var err error
	for i := range s {
		switch {
		case len(s[i]) == 0:
			continue
		case i == inner:
			_, err = d.Inner.Write(s[i], offset)
		case t.ports[i-1] != nil:
			t.ports[i-1].dev.Write(s[i], offset) // it may have ended
		}
		clear(s[i])
		s[i] = s[i][:0]
	}
	if err != nil {
		return 0, err
	}
	return len(bufs), nil
}

// borrow returns room to sort a batch in. There is as much as batches have been sorted at once.
func (d *Device) borrow() *sorted {
	select {
	case s := <-d.room:
		return s
	default:
		return new(sorted)
	}
}

func (d *Device) giveBack(s *sorted) {
	select {
	case d.room <- s:
	default:
	}
}

// destination returns the index in sorted of the stack that a packet is for.
func (d *Device) destination(t *table, p *packet) int {
	switch {
	case p.inner, d.claims != nil && d.claims(p.protocol, p.local, p.remote):
		return inner
	}
	if owner := t.owners.of(p.protocol, p.local.Port()); owner != nobody && t.ports[owner-1] != nil {
		return owner
	}
	if d.claims == nil {
		return inner
	}
	return t.newest.index + 1
}

// transient reports whether an error of a device is about some packets, rather than its end.
func transient(err error) bool { return errors.Is(err, wgtun.ErrTooManySegments) }
