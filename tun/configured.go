package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
)

// Configured is an interface that Configure has set up. All methods are safe for concurrent use.
type Configured struct {
	name    string   // constant
	journal *Journal // constant

	mu       sync.Mutex // guards the following
	config   Config     // Routes are the current ones
	mark     uint32
	warnings []error
	closed   bool
}

// Configure sets the interface up and brings it up. The interface must be there (see Open). It may be called again for
// the same interface and journal: what is in place stays. When it fails, it takes back what it has done.
//
// The journal is told of each change before it is made. A nil journal is one in memory, without help against crashes.
//
// With a default route among the routes, the caller must mark its sockets with FwMark before it sends to peers. On
// systems without marks it must bind them to another interface instead.
func Configure(name string, c Config, j *Journal) (*Configured, error) {
	c, err := c.check(name)
	if err != nil {
		return nil, fmt.Errorf("configure %s: %w", name, err)
	}
	if j == nil {
		j = &Journal{}
	}
	d := &Configured{name: name, journal: j, config: c, mark: c.FwMark}
	before := j.mark()
	if err := d.setUp(); err != nil {
		return nil, errors.Join(fmt.Errorf("configure %s: %w", name, err), d.undoSince(before))
	}
	return d, nil
}

// FwMark is the mark that the tunnel's own sockets must carry: the configured one, or the one chosen for a full tunnel;
// 0 is none. SetRoutes and MarkFor may change it from 0.
func (d *Configured) FwMark() uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mark
}

// Warnings are the things that could not be set up and that the tunnel can run without.
func (d *Configured) Warnings() []error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.warnings)
}

// RunsScripts reports whether to take the interface down means to run programs of others that may need any right: resolvconf tells whoever
// resolves names, and restarts them.
func (d *Configured) RunsScripts() bool {
	_, found := d.journal.find(func(s step) bool { return s.Interface == d.name && s.Kind == stepDNS && s.Method == "resolvconf" })
	return found
}

// SetFwMark changes Config.FwMark, which is to be on the tunnel's own sockets. It is refused while there is a default route, whose rules have
// the present one.
func (d *Configured) SetFwMark(mark uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case mark == d.config.FwMark:
		return nil
	case d.closed:
		return fmt.Errorf("set the mark of %s: %w", d.name, errClosed)
	case d.config.Table == TableAuto && slices.ContainsFunc(d.config.Routes, func(p netip.Prefix) bool { return p.Bits() == 0 }):
		return fmt.Errorf("set the mark of %s: the rules of its default route have the mark 0x%x", d.name, d.mark)
	}
	d.config.FwMark, d.mark = mark, mark
	return nil
}

// MarkFor is FwMark as it is with these allowed IPs, chosen now if they need one and there is none. A caller puts it on its sockets before
// SetRoutes: what they send in between would go into the tunnel, and what is dialled would have its address.
func (d *Configured) MarkFor(prefixes []netip.Prefix) (uint32, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return 0, fmt.Errorf("choose the mark of %s: %w", d.name, errClosed)
	}
	if d.config.Table == TableAuto && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Bits() == 0 }) {
		if err := d.prepareMark(); err != nil {
			return 0, fmt.Errorf("choose the mark of %s: %w", d.name, err)
		}
	}
	return d.mark, nil
}

// SetRoutes makes prefixes the allowed IPs of all peers: it adds the routes that are new and removes those that Configure
// or SetRoutes had added and that are no longer wanted. When it fails, it takes back what it has added.
func (d *Configured) SetRoutes(prefixes []netip.Prefix) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("set routes of %s: %w", d.name, errClosed)
	}
	wanted, err := normalRoutes(prefixes)
	if err != nil {
		return fmt.Errorf("set routes of %s: %w", d.name, err)
	}
	added, removed := diffRoutes(d.config.Routes, wanted)
	gone := make(map[netip.Prefix]bool, len(removed))
	for _, p := range removed {
		gone[p] = true
	}
	before := d.journal.mark()
	if err := d.addRoutes(added); err != nil {
		return errors.Join(fmt.Errorf("set routes of %s: %w", d.name, err), d.undoSince(before))
	}
	if len(gone) > 0 {
		if err := d.undo(func(s step) bool { return s.For.IsValid() && gone[s.For] }); err != nil {
			return fmt.Errorf("set routes of %s: %w", d.name, err)
		}
		// A route that was left out because a removed one covered it is needed now.
		if err := d.addRoutes(slices.Clone(wanted)); err != nil {
			return fmt.Errorf("set routes of %s: %w", d.name, err)
		}
	}
	d.config.Routes = wanted
	return nil
}

// Close takes back everything that was done to the interface and the system, last first. Whatever cannot be taken back
// stays in the journal, for Recover. The device itself is the caller's to close, before or after. Close is idempotent.
func (d *Configured) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	if err := d.undo(func(step) bool { return true }); err != nil {
		return fmt.Errorf("take down %s: %w", d.name, err)
	}
	return nil
}

var errClosed = errors.New("it has been taken down")

// warn notes what could not be set up and is not vital.
func (d *Configured) warn(err error) { d.warnings = append(d.warnings, err) }

// undo takes back the steps of this interface that match.
func (d *Configured) undo(match func(step) bool) error {
	u := newUndoer(false)
	defer u.close()
	return d.journal.undo(func(s recorded) bool { return s.Interface == d.name && match(s.step) }, u.undo)
}

// undoSince takes back the steps after the given one.
func (d *Configured) undoSince(before int) error {
	u := newUndoer(false)
	defer u.close()
	return d.journal.undo(func(s recorded) bool { return s.id > before }, u.undo)
}
