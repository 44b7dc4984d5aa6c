//go:build darwin || freebsd

package tun

import (
	"fmt"
	"net"
	"strings"
)

// undoer takes back steps. What is gone already counts as taken back.
type undoer struct {
	recovering bool // the process that did the steps is dead
}

func newUndoer(recovering bool) *undoer { return &undoer{recovering: recovering} }

func (u *undoer) close() {}

// undo takes one step back.
func (u *undoer) undo(t step) error {
	link, err := net.InterfaceByName(t.Interface)
	there := err == nil && link.Index == t.Index
	switch t.Kind {
	case stepLink:
		if !there {
			return nil
		}
		if u.recovering {
			return removeLink(t.Interface)
		}
		return run("ifconfig", t.Interface, "down")
	case stepAddress:
		if !there {
			return nil
		}
		return unlessGone(run("ifconfig", t.Interface, inet(t.Prefix.Addr().Is6()), t.Prefix.Addr().String(), "-alias"))
	case stepRoute:
		if !there {
			return nil
		}
		table, err := tableArgs(Table(t.Table))
		if err != nil {
			return err
		}
		return unlessGone(run("route", routeArgs("delete", t, table)...))
	case stepDNS:
		return undoDNS(t)
	}
	return fmt.Errorf("take back a step of kind %q: %w", t.Kind, ErrUnsupported)
}

// unlessGone drops the error by which ifconfig and route say that there is no such address or route.
func unlessGone(err error) error {
	if err != nil && (strings.Contains(err.Error(), "not in table") || strings.Contains(err.Error(), "assign requested address")) {
		return nil
	}
	return err
}
