package device

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

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
	text, err := d.ipcGet()
	if err != nil {
		return nil, fmt.Errorf("read WireGuard's state: %w", err)
	}
	return parseState(text)
}

// parseState reads a "get" operation of the UAPI.
func parseState(text []byte) (*wgState, error) {
	s := &wgState{peers: make([]wgPeer, 0, bytes.Count(text, []byte("public_key=")))}
	var p *wgPeer
	for line := range bytes.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimRight(string(line), "\r\n"), "=")
		if name == "public_key" {
			pk, err := key.ParsePublicHex(value)
			if err != nil {
				return nil, err
			}
			s.peers = append(s.peers, wgPeer{publicKey: pk})
			p = &s.peers[len(s.peers)-1]
			continue
		}
		var err error
		if p == nil {
			err = s.set(name, value)
		} else {
			err = p.set(name, value)
		}
		if err != nil {
			return nil, fmt.Errorf("UAPI %s: %w", name, err)
		}
	}
	return s, nil
}

func (s *wgState) set(name, value string) (err error) {
	var n uint64
	switch name {
	case "private_key":
		var b []byte
		if b, err = hex.DecodeString(value); err == nil && len(b) == key.Size {
			s.privateKey = key.Private(b)
		}
	case "listen_port":
		n, err = strconv.ParseUint(value, 10, 16)
		s.listenPort = uint16(n)
	case "fwmark":
		n, err = strconv.ParseUint(value, 10, 32)
		s.fwmark = uint32(n)
	}
	return err
}

func (p *wgPeer) set(name, value string) (err error) {
	var n int64
	switch name {
	case "endpoint":
		p.endpoint = value
	case "rx_bytes":
		p.rxBytes, err = strconv.ParseUint(value, 10, 64)
	case "tx_bytes":
		p.txBytes, err = strconv.ParseUint(value, 10, 64)
	case "last_handshake_time_sec":
		if n, err = strconv.ParseInt(value, 10, 64); n != 0 {
			p.lastHandshake = time.Unix(n, 0)
		}
	case "last_handshake_time_nsec":
		if n, err = strconv.ParseInt(value, 10, 64); n != 0 {
			p.lastHandshake = p.lastHandshake.Add(time.Duration(n))
		}
	case "allowed_ip":
		var prefix netip.Prefix
		if prefix, err = netip.ParsePrefix(value); err == nil {
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
