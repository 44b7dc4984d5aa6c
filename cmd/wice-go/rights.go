package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// rights is what a daemon needs to be able to do once its interface is up, beside what every daemon needs.
type rights struct {
	ping bool   // by the kernel's stack
	file string // to be read by a reload; "": none is
	save bool   // and replaced by a save
	// Commands of the administrator are still to be run, such as PostDown: nobody knows what they need.
	commands bool
}

// dropRights gives up the rights that were for setting the interface up. It is called when that is over, and before the control socket answers
// and readiness is told. A daemon that can't works as well as one that can: that is a warning.
func (r *running) dropRights() {
	var need rights
	need.ping = r.stack == nil
	need.file = r.cfg.File
	if need.save = !r.dropIn; need.save {
		i := &r.cfg.Interface
		need.commands = len(i.PreDown)+len(i.PostDown) > 0 || r.configured != nil && r.configured.RunsScripts()
	}
	kept, err := dropCapabilities(need)
	r.gaveUp = kept != nil
	switch {
	case err != nil:
		r.log.Warn("the daemon keeps rights that it does not need", "err", err)
		r.ready.say("the daemon keeps rights that it does not need: %v", err)
	case kept == nil:
	case need.commands:
		r.log.Info("capabilities were given up; commands that are still to be run have those that the daemon was started with", "kept", strings.Join(kept, " "))
	default:
		r.log.Info("capabilities were given up for good", "kept", strings.Join(kept, " "))
	}
}

// forLackOfRights says of an error about the file that root's daemon may lack a right that it had at first, which "run this as root" does not tell.
func (r *running) forLackOfRights(err error) error {
	if !r.gaveUp || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	anew := fmt.Sprintf("or: wice-go down %s && wice-go up %[1]s", r.name)
	if r.dropIn {
		anew = "or make the interface anew"
	}
	return fmt.Errorf("%w (the daemon has given up CAP_DAC_OVERRIDE, which it did not need for this file when it came up; make the file and its directory"+
		" the daemon's user's again, %s)", err, anew)
}
