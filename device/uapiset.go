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
	return d.applySet(d.newSet(text))
}

// applySet is ipcSet for one that holds uapiMu. Of an operation that fails there remains what was done of it before, as with wireguard-go.
func (d *Device) applySet(set *setOperation) error {
	if len(set.text) >= largeSet {
		defer func() { time.AfterFunc(tidyAfter, debug.FreeOSMemory) }()
	}
	port := d.bind.Port()
	err := d.wg.IpcSetOperation(set)
	if err != nil && port != 0 && d.bind.Port() == 0 {
		// Another program has the port that was asked for. wireguard-go has none then, and the interface is dead; Linux stays at its own.
		err = errors.Join(err, d.wg.IpcSet(fmt.Sprintf("listen_port=%d\n", port)))
	}
	if !set.concerns {
		return err
	}
	return errors.Join(err, d.reconcile(set))
}

// setOperation is a set operation that wireguard-go reads line by line, so that what it has read is what it has done but for the last line.
// Meanwhile it is noted what sessions and endpoints have to know. A new peer that takes part in ICE gets its endpoint in the bind before
// wireguard-go starts it, which may well have something to send to it at once: packets that wait, or a keep-alive.
type setOperation struct {
	device *Device

	text    []byte // what is yet to be read
	line    []byte // the beginning of it, which was looked at
	pk      key.Public
	section bool // the lines are about pk
	created bool // by the last line
	moved   bool // from the port that was open

	// What follows is of the lines that were read.
	concerns      bool                          // sessions and endpoints; to look at thousands of peers takes long
	endpoints     map[key.Public]netip.AddrPort // those that it sets; the zero value is that of a peer that it removes, and may add again
	replacesPeers bool                          // all peers are removed first
	ice           map[key.Public]bool           // peers that it makes, and that take part in ICE
}

func (d *Device) newSet(text []byte) *setOperation {
	return &setOperation{device: d, text: text, endpoints: make(map[key.Public]netip.AddrPort), ice: make(map[key.Public]bool)}
}

// Read implements [io.Reader]. It never returns more than one line.
func (s *setOperation) Read(b []byte) (int, error) {
	for len(s.line) == 0 {
		if s.created {
			s.attach()
		}
		if len(s.text) == 0 {
			return 0, io.EOF
		}
		end := bytes.IndexByte(s.text, '\n') + 1
		if end == 0 {
			end = len(s.text)
		}
		s.line, s.text = s.text[:end], s.text[end:]
		if !s.note(strings.TrimSuffix(strings.TrimSuffix(string(s.line), "\n"), "\r")) {
			s.line = nil
		}
	}
	n := copy(b, s.line)
	s.line = s.line[n:]
	return n, nil
}

// note takes in a line before wireguard-go does, which finds by itself what is wrong with it, and reports whether wireguard-go is to read it.
func (s *setOperation) note(line string) bool {
	name, value, _ := strings.Cut(line, "=")
	s.concerns = s.concerns || !ofPeerAlone(name)
	switch name {
	case "listen_port":
		if !s.section && !s.moved && s.device.hasPort(value) {
			return false
		}
		s.moved = true
	case "replace_peers":
		s.replacesPeers = s.replacesPeers || !s.section && value == "true"
	case "public_key":
		var err error
		s.pk, err = key.ParsePublicHex(value)
		s.section = err == nil
		s.created = s.section && s.peer() == nil
		s.concerns = s.concerns || s.created
	case "remove":
		if value == "true" && s.section {
			s.endpoints[s.pk] = netip.AddrPort{}
		}
	case "endpoint":
		if addr, err := netip.ParseAddrPort(value); err == nil && s.section && s.peer() != nil {
			s.endpoints[s.pk] = addr
		}
	}
	return true
}

// ofPeerAlone reports whether a line only says which peer is meant, or what WireGuard alone has to know of it: programs that renew preshared
// keys do so for each peer again and again.
func ofPeerAlone(name string) bool {
	switch name {
	case "", "public_key", "update_only", "preshared_key", "persistent_keepalive_interval", "protocol_version":
		return true
	}
	return false
}

// peer is that of the section, nil if wireguard-go does not have it at this moment: it is yet to be made, or was removed.
func (s *setOperation) peer() *wgdevice.Peer {
	return s.device.wg.LookupPeer(wgdevice.NoisePublicKey(s.pk))
}

// attach gives a peer that was just made its endpoint.
func (s *setOperation) attach() {
	s.created = false
	if p := s.peer(); p != nil && s.device.isICE(s.pk, s.ice[s.pk]) {
		s.ice[s.pk] = true
		p.SetEndpointFromPacket(s.device.bind.Peer(s.pk))
	}
}
