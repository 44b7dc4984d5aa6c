package device

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	wgdevice "golang.zx2c4.com/wireguard/device"

	"github.com/wice-go/wice-go/proto/key"
)

const (
	// largeSet is the size in bytes of a set operation, of some thousand peers, after which memory is given back to the system. Go would keep what
	// it left behind until the process has twice as much, and most of what it has are the queues of WireGuard's peers.
	largeSet = 256 << 10
	// tidyAfter is when: not while the peers have better things to do.
	tidyAfter = 2 * time.Second
)

// ipcSet applies a set operation and makes sessions and endpoints follow.
func (d *Device) ipcSet(text []byte) error {
	d.uapiMu.Lock()
	defer d.uapiMu.Unlock()
	if d.ctx.Err() != nil {
		return errClosed
	}
	return d.applySet(text)
}

// applySet is ipcSet for one that holds uapiMu. Of an operation that fails there remains what was done of it before, as with wireguard-go.
func (d *Device) applySet(text []byte) error {
	if len(text) >= largeSet {
		defer func() { time.AfterFunc(tidyAfter, debug.FreeOSMemory) }()
	}
	port := d.bind.Port()
	err := d.wg.IpcSetOperation(&setOperation{device: d, text: text})
	if err != nil && port != 0 && d.bind.Port() == 0 {
		// Another program has the port that was asked for. wireguard-go has none then, and the interface is dead; Linux stays at its own.
		err = errors.Join(err, d.wg.IpcSet(fmt.Sprintf("listen_port=%d\n", port)))
	}
	d.whole = d.whole || err != nil
	return errors.Join(err, d.reconcile())
}

// setOperation is a set operation that wireguard-go reads line by line, so that it has done a line when it asks for the next one. Then the
// device's table follows, and it is noted whose sessions and endpoints have to. A new peer that takes part in ICE gets its endpoint in the bind
// before wireguard-go starts it, which may well have something to send to it at once: packets that wait, or a keep-alive.
type setOperation struct {
	device *Device

	text    []byte // what is yet to be read
	line    []byte // what is left of the line that is being read
	last    string // the same line, without its end; "" before the first one
	pk      key.Public
	section bool // the lines are about pk
	moved   bool // from the port that was open
}

// Read implements [io.Reader]. It never returns more than one line.
func (s *setOperation) Read(b []byte) (int, error) {
	for len(s.line) == 0 {
		s.follow()
		if len(s.text) == 0 {
			return 0, io.EOF
		}
		end := bytes.IndexByte(s.text, '\n') + 1
		if end == 0 { // else wireguard-go would ask for more before it does the line
			s.text = append(s.text, '\n')
			end = len(s.text)
		}
		s.line, s.text = s.text[:end], s.text[end:]
		s.last = strings.TrimSuffix(string(s.line[:end-1]), "\r")
		if s.isIdle() {
			s.line, s.last = nil, ""
		}
	}
	n := copy(b, s.line)
	s.line = s.line[n:]
	return n, nil
}

// isIdle reports whether the line is about a port and changes nothing: wireguard-go is not to read it.
func (s *setOperation) isIdle() bool {
	value, ok := strings.CutPrefix(s.last, "listen_port=")
	if !ok || s.section {
		return false
	}
	s.moved = s.moved || !s.device.hasPort(value)
	return !s.moved
}

// follow takes in the last line, which wireguard-go has done.
func (s *setOperation) follow() {
	name, value, _ := strings.Cut(s.last, "=")
	t := &s.device.table
	switch {
	case name == "":
	case name == "public_key":
		s.pk, _ = key.ParsePublicHex(value)
		s.section = true
		s.followPeer()
	case !s.section:
		switch name {
		case "replace_peers":
			t.clear()
		case "private_key": // WireGuard removes the peer that it makes the interface itself
			private, _ := key.ParsePrivateHex(value)
			s.pk = private.Public()
			s.followPeer()
		}
		s.device.whole = true
	case name == "update_only", name == "remove":
		s.followPeer()
	case name == "endpoint":
		if addr, err := netip.ParseAddrPort(value); err == nil {
			s.device.setStatic(s.pk, addr)
		}
	case name == "replace_allowed_ips":
		t.edit(s.pk, t.disallowAllLocked)
	case name == "allowed_ip":
		change := t.allowLocked
		if rest, ok := strings.CutPrefix(value, "-"); ok {
			change, value = t.disallowLocked, rest
		}
		if prefix, err := netip.ParsePrefix(value); err == nil {
			t.edit(s.pk, func(m *member) { change(m, prefix) })
		}
	}
}

// followPeer looks whether the last line has made the peer of the section, or removed it, which depends on what there was.
func (s *setOperation) followPeer() {
	d := s.device
	p := d.wg.LookupPeer(wgdevice.NoisePublicKey(s.pk))
	if (p != nil) == d.table.has(s.pk) {
		return
	}
	d.touch(s.pk)
	if p == nil {
		d.table.remove(s.pk)
		return
	}
	d.table.add(s.pk)
	if d.isICE(s.pk, d.touched[s.pk]) {
		d.touched[s.pk] = true
		p.SetEndpointFromPacket(d.bind.Peer(s.pk))
	}
}

// touch has the session and the endpoint of a peer follow what becomes of it. The caller holds uapiMu.
func (d *Device) touch(pk key.Public) {
	if _, ok := d.touched[pk]; !ok {
		d.touched[pk] = false
	}
}

// setStatic notes that a peer was given an endpoint by hand, or none, if WireGuard has the peer. The caller holds uapiMu.
func (d *Device) setStatic(pk key.Public, addr netip.AddrPort) {
	if d.table.edit(pk, func(m *member) { m.static = addr }) {
		d.touch(pk)
	}
}
