package device

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	wgdevice "golang.zx2c4.com/wireguard/device"

	"github.com/wice-go/wice-go/proto/key"
)

// ipcSet applies a set operation and makes sessions and endpoints follow. Keep-alives are switched on last: they make wireguard-go send a
// handshake at once, which must find the endpoint of its peer in place.
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
	err := errors.Join(d.wg.IpcSetOperation(set), d.reconcile(set))
	if len(set.keepalives) > 0 {
		err = errors.Join(err, d.wg.IpcSet(set.keepaliveText()))
	}
	return err
}

// setOperation is a set operation that wireguard-go reads line by line, so that what it has read is what it has done but for the last line.
// Meanwhile it is noted what sessions and endpoints have to know, and keep-alives are kept back. What wireguard-go makes of the two parts, one
// after the other, is what it makes of the whole.
type setOperation struct {
	exists func(key.Public) bool // whether wireguard-go has the peer at this moment

	text    []byte // what is yet to be read
	line    []byte // the beginning of it, which was looked at
	pk      key.Public
	section bool // the lines are about pk

	// What follows is of the lines that were read.
	endpoints     map[key.Public]netip.AddrPort // those that it sets; the zero value is that of a peer that it removes, and may add again
	replacesPeers bool                          // all peers are removed first
	keepalives    map[key.Public]uint16         // of peers that exist
}

func (d *Device) newSet(text []byte) *setOperation {
	exists := func(pk key.Public) bool { return d.wg.LookupPeer(wgdevice.NoisePublicKey(pk)) != nil }
	return &setOperation{exists: exists, text: text, endpoints: make(map[key.Public]netip.AddrPort), keepalives: make(map[key.Public]uint16)}
}

// Read implements [io.Reader]. It never returns more than one line.
func (s *setOperation) Read(b []byte) (int, error) {
	for len(s.line) == 0 {
		if len(s.text) == 0 {
			return 0, io.EOF
		}
		end := bytes.IndexByte(s.text, '\n') + 1
		if end == 0 {
			end = len(s.text)
		}
		s.line, s.text = s.text[:end], s.text[end:]
		if end <= bufio.MaxScanTokenSize && s.note(strings.TrimSuffix(strings.TrimSuffix(string(s.line), "\n"), "\r")) {
			s.line = nil
		}
	}
	n := copy(b, s.line)
	s.line = s.line[n:]
	return n, nil
}

// note takes in a line before wireguard-go does, and reports whether it is kept back. What is wrong with it wireguard-go finds by itself.
func (s *setOperation) note(line string) (keep bool) {
	name, value, _ := strings.Cut(line, "=")
	switch name {
	case "replace_peers":
		s.replacesPeers = s.replacesPeers || !s.section && value == "true"
	case "public_key":
		var err error
		s.pk, err = key.ParsePublicHex(value)
		s.section = err == nil
		if seconds, late := s.keepalives[s.pk]; late && s.section {
			// The peer once more, which may be removed now, or was and is made anew: no order may change.
			delete(s.keepalives, s.pk)
			if s.exists(s.pk) {
				s.line = fmt.Appendf(nil, "%s\npersistent_keepalive_interval=%d\n", line, seconds)
			}
		}
	case "remove":
		if value == "true" && s.section {
			s.endpoints[s.pk] = netip.AddrPort{}
			delete(s.keepalives, s.pk)
		}
	case "endpoint":
		if addr, err := netip.ParseAddrPort(value); err == nil && s.section && s.exists(s.pk) {
			s.endpoints[s.pk] = addr
		}
	case "persistent_keepalive_interval":
		seconds, err := strconv.ParseUint(value, 10, 16)
		if err == nil && s.section && s.exists(s.pk) {
			s.keepalives[s.pk] = uint16(seconds)
			return true
		}
	}
	return false
}

// keepaliveText is an operation that switches the keep-alives on, and creates no peer.
func (s *setOperation) keepaliveText() string {
	var text strings.Builder
	for pk, seconds := range s.keepalives {
		fmt.Fprintf(&text, "public_key=%s\nupdate_only=true\npersistent_keepalive_interval=%d\n", pk.Hex(), seconds)
	}
	return text.String()
}
