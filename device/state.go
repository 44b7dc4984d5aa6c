package device

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/wice-go/wice-go/bind"
	"github.com/wice-go/wice-go/proto/key"
)

// wgState is what wireguard-go knows of itself, read from its own "get" operation: the one source for status, sessions and metrics.
type wgState struct {
	privateKey key.Private
	listenPort uint16
	fwmark     uint32
	peers      []wgPeer
}

type wgPeer struct {
	publicKey     key.Public
	endpoint      string // "" while there is none
	lastHandshake time.Time
	rxBytes       uint64
	txBytes       uint64
	allowedIPs    []netip.Prefix
}

func (d *Device) readState() (*wgState, error) {
	var r stateReader
	if err := d.wg.IpcGetOperation(&r); err != nil {
		return nil, fmt.Errorf("read WireGuard's state: %w", err)
	}
	return &r.state, nil
}

// stateReader takes in the answer to a "get" operation of the UAPI as it is written, since that of thousands of peers is long.
type stateReader struct {
	state wgState
	line  []byte // the beginning of one whose end is yet to come
}

// Write implements [io.Writer].
func (r *stateReader) Write(b []byte) (int, error) {
	r.state.peers = slices.Grow(r.state.peers, bytes.Count(b, []byte("public_key=")))
	for rest := b; ; {
		line, after, found := bytes.Cut(rest, []byte("\n"))
		if !found {
			r.line = append(r.line, line...)
			return len(b), nil
		}
		if len(r.line) > 0 {
			line = append(r.line, line...)
			r.line = nil
		}
		if err := r.state.take(line); err != nil {
			return 0, err
		}
		rest = after
	}
}

// take takes in a line.
func (s *wgState) take(line []byte) (err error) {
	name, value, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\r")), []byte("="))
	var pk key.Public
	switch {
	case string(name) == "public_key":
		if pk, err = key.ParsePublicHex(string(value)); err == nil {
			s.peers = append(s.peers, wgPeer{publicKey: pk})
		}
	case len(s.peers) > 0:
		err = s.peers[len(s.peers)-1].set(string(name), value)
	default:
		err = s.set(string(name), string(value))
	}
	if err != nil {
		return fmt.Errorf("UAPI %s: %w", name, err)
	}
	return nil
}

func (s *wgState) set(name, value string) (err error) {
	var n uint64
	switch name {
	case "private_key":
		s.privateKey, err = key.ParsePrivateHex(value)
	case "listen_port":
		n, err = strconv.ParseUint(value, 10, 16)
		s.listenPort = uint16(n)
	case "fwmark":
		n, err = strconv.ParseUint(value, 10, 32)
		s.fwmark = uint32(n)
	}
	return err
}

func (p *wgPeer) set(name string, value []byte) (err error) {
	var n int64
	switch name {
	case "endpoint":
		if string(value) != bind.NoEndpoint {
			p.endpoint = string(value)
		}
	case "rx_bytes":
		p.rxBytes, err = strconv.ParseUint(string(value), 10, 64)
	case "tx_bytes":
		p.txBytes, err = strconv.ParseUint(string(value), 10, 64)
	case "last_handshake_time_sec":
		if n, err = strconv.ParseInt(string(value), 10, 64); n != 0 {
			p.lastHandshake = time.Unix(n, 0)
		}
	case "last_handshake_time_nsec":
		if n, err = strconv.ParseInt(string(value), 10, 64); n != 0 {
			p.lastHandshake = p.lastHandshake.Add(time.Duration(n))
		}
	case "allowed_ip":
		var prefix netip.Prefix
		if prefix, err = netip.ParsePrefix(string(value)); err == nil {
			p.allowedIPs = append(p.allowedIPs, prefix)
		}
	}
	return err
}

// lastHandshake returns when the last handshake with the peer was completed; the zero time: never.
func (d *Device) lastHandshake(pk key.Public) time.Time {
	s, err := d.readState()
	if err != nil {
		return time.Time{}
	}
	for _, p := range s.peers {
		if p.publicKey == pk {
			return p.lastHandshake
		}
	}
	return time.Time{}
}
