package config

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/wice-go/wice-go/proto/key"
)

// Update takes over the state of a running device: the answer to "get=1" of WireGuard's cross-platform interface. Peers keep what
// the device does not know (name, ICE, Lazy) and their Endpoint: the device's is whatever path is in use, which means nothing after
// a restart. A peer that is new has the device's endpoint.
func (c *Config) Update(uapi string) error {
	known := make(map[key.Public]*Peer, len(c.Peers))
	for n := range c.Peers {
		known[c.Peers[n].PublicKey] = &c.Peers[n]
	}
	live := Interface{}
	var peers []Peer
	lines := bufio.NewScanner(strings.NewReader(uapi))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		var err error
		if name == "public_key" {
			var k key.Public
			if k, err = key.ParsePublicHex(value); err == nil {
				p := Peer{PublicKey: k}
				if old := known[k]; old != nil {
					p.Endpoint, p.Name, p.ICE, p.Lazy = old.Endpoint, old.Name, old.ICE, old.Lazy
				}
				peers = append(peers, p)
			}
		} else if len(peers) == 0 {
			err = live.updateFrom(name, value)
		} else {
			p := &peers[len(peers)-1]
			err = p.updateFrom(name, value, known[p.PublicKey] == nil)
		}
		if err != nil {
			return fmt.Errorf("read the device's state: %s: %w", name, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the device's state: %w", err)
	}
	if !live.PrivateKey.IsZero() {
		c.Interface.PrivateKey = live.PrivateKey
	}
	c.Interface.ListenPort, c.Interface.FwMark = live.ListenPort, live.FwMark
	// The device has its peers in no order: those of the file keep theirs.
	place := make(map[key.Public]int, len(c.Peers))
	for n, p := range c.Peers {
		place[p.PublicKey] = n - len(c.Peers)
	}
	slices.SortStableFunc(peers, func(p, q Peer) int {
		if d := place[p.PublicKey] - place[q.PublicKey]; d != 0 {
			return d
		}
		return p.PublicKey.Compare(q.PublicKey)
	})
	c.Peers = peers
	return nil
}

func (i *Interface) updateFrom(name, value string) error {
	switch name {
	case "private_key":
		k, err := key.ParsePublicHex(value) // 32 bytes are all that is asked for
		i.PrivateKey = key.Private(k)
		if err != nil {
			return key.ErrFormat // the other error has the text
		}
	case "listen_port":
		port, err := parsePort(value)
		i.ListenPort = &port
		return err
	case "fwmark":
		mark, err := ParseFwMark(value)
		i.FwMark = mark
		return err
	}
	return nil
}

func (p *Peer) updateFrom(name, value string, isNew bool) error {
	switch name {
	case "preshared_key":
		k, err := key.ParsePublicHex(value)
		if err != nil {
			return key.ErrFormat
		}
		if psk := key.Preshared(k); !psk.IsZero() {
			p.PresharedKey = &psk
		}
	case "endpoint":
		if isNew {
			p.Endpoint = value
		}
	case "persistent_keepalive_interval":
		n, err := parseDigits(value, 65535)
		if seconds := uint16(n); seconds != 0 {
			p.PersistentKeepalive = &seconds
		}
		return err
	case "allowed_ip":
		prefix, err := netip.ParsePrefix(value)
		p.AllowedIPs = append(p.AllowedIPs, prefix)
		return err
	}
	return nil
}

// Save returns the text of a file changed to what c says of keys, port, mark and peers, which is what can change while a device
// runs. Every other line, comments and "#!wice" lines included, stays as it is.
func (c *Config) Save(text string) (string, error) {
	old, err := Parse(c.File, strings.NewReader(text))
	if err != nil {
		return "", fmt.Errorf("save configuration: the file was changed: %w", err)
	}
	oldPeers := make(map[string]*Peer)
	for n := range old.Peers {
		oldPeers[old.Peers[n].PublicKey.String()] = &old.Peers[n]
	}
	newPeers := make(map[string]*Peer)
	for n := range c.Peers {
		newPeers[c.Peers[n].PublicKey.String()] = &c.Peers[n]
	}
	var b strings.Builder
	changed := false // the interface's values are written once, though there may be two sections
	for _, s := range cutBlocks(text) {
		switch {
		case s.kind == sectionInterface && !changed:
			changed = true
			s.setAll(interfaceValues(&old.Interface), interfaceValues(&c.Interface))
		case s.kind == sectionPeer:
			k := s.value("publickey")
			before, now := oldPeers[k], newPeers[k]
			if before != nil && now == nil {
				continue
			}
			if before != nil { // else it is the interface itself
				s.setAll(peerValues(before), peerValues(now))
			}
		}
		for _, line := range slices.Concat(s.lead, s.lines) {
			b.WriteString(line + "\n")
		}
	}
	for n := range c.Peers {
		if oldPeers[c.Peers[n].PublicKey.String()] == nil {
			printer{&b}.printPeer(&c.Peers[n])
		}
	}
	return b.String(), nil
}

// SaveFile does what [Config.Save] does with the file at path, so that it is complete at every moment. Its mode stays, and its owner and
// group where that is permitted; so does a link that leads to it.
func (c *Config) SaveFile(path string) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return explain(path, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return explain(path, err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		return explain(path, err)
	}
	after, err := c.Save(string(before))
	if err != nil || after == string(before) {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".wice-go-*") // mode 0600
	if err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	_, err = f.WriteString(after)
	if err == nil {
		err = keepAccess(f, info)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	return nil
}

// value is a key and what a file says for it, "" for nothing.
type value struct{ name, text string }

func interfaceValues(i *Interface) []value {
	private, port, mark := "", "", ""
	if !i.PrivateKey.IsZero() {
		private = i.PrivateKey.Base64()
	}
	if i.ListenPort != nil {
		port = strconv.Itoa(int(*i.ListenPort))
	}
	if i.FwMark != 0 {
		mark = fmt.Sprintf("0x%x", i.FwMark)
	}
	return []value{{"PrivateKey", private}, {"ListenPort", port}, {"FwMark", mark}}
}

func peerValues(p *Peer) []value {
	psk, keepalive := "", ""
	if p.PresharedKey != nil {
		psk = p.PresharedKey.Base64()
	}
	if p.PersistentKeepalive != nil && *p.PersistentKeepalive != 0 {
		keepalive = strconv.Itoa(int(*p.PersistentKeepalive))
	}
	allowed := texts(p.AllowedIPs)
	slices.Sort(allowed) // the device has them in its own order
	return []value{{"PresharedKey", psk}, {"AllowedIPs", strings.Join(allowed, ", ")}, {"PersistentKeepalive", keepalive}}
}

// block is a section as it stands in the file, with the comments above it.
type block struct {
	kind  section
	lead  []string
	lines []string
}

// cutBlocks takes a file apart without losing a line. What follows the last key of a section up to the next header belongs to
// the latter: people write what a peer is above it.
func cutBlocks(text string) []*block {
	current := new(block)
	blocks := []*block{current}
	tail := 0 // lines at the end of the current block that may turn out to be the next one's
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		line = strings.TrimRight(line, "\r\n")
		bare, _, _ := strings.Cut(line, "#")
		kind := sectionNone
		switch strings.ToLower(strip(bare)) {
		case "[interface]":
			kind = sectionInterface
		case "[peer]":
			kind = sectionPeer
		}
		if kind != sectionNone {
			at := len(current.lines) - tail
			next := &block{kind: kind, lead: slices.Clone(current.lines[at:])}
			current.lines = current.lines[:at]
			current, tail = next, 0
			blocks = append(blocks, current)
			current.lines = append(current.lines, line)
			continue
		}
		current.lines = append(current.lines, line)
		_, wice := cutFold("#!wice", strings.TrimSpace(line))
		if strings.TrimSpace(bare) == "" && !wice {
			tail++
		} else {
			tail = 0
		}
	}
	return blocks
}

// nameOf returns the lower-case key of a line that wg reads.
func nameOf(line string) (name, val string) {
	bare, _, _ := strings.Cut(line, "#")
	name, val, _ = strings.Cut(bare, "=")
	return strings.ToLower(strip(name)), strip(val)
}

// value returns what the last line with that key says.
func (s *block) value(name string) (last string) {
	for _, line := range s.lines {
		if n, v := nameOf(line); n == name {
			last = v
		}
	}
	return last
}

// setAll writes the values that differ from those before.
func (s *block) setAll(before, now []value) {
	for n := range now {
		if before[n].text != now[n].text {
			s.set(now[n])
		}
	}
}

// set puts one line in the place of all that have that key, or behind the section's last key.
func (s *block) set(v value) {
	at, end := -1, 1
	var kept []string
	for _, line := range s.lines {
		name, _ := nameOf(line)
		if name == strings.ToLower(v.name) {
			if at < 0 {
				at = len(kept)
			}
			continue
		}
		kept = append(kept, line)
		if strings.TrimSpace(line) != "" {
			end = len(kept)
		}
	}
	if at < 0 {
		at = end
	}
	if v.text != "" {
		kept = slices.Insert(kept, at, v.name+" = "+v.text)
	}
	s.lines = kept
}

// Strip returns the text of a file without the lines of [Interface] that wg(8) does not know: what "wg setconf" reads. Comments stay.
func Strip(text string) string {
	quick := make(map[string]bool)
	for _, d := range keyDefs() {
		if d.section == sectionInterface && !d.wice && !d.stripped {
			quick[strings.ToLower(d.name)] = true
		}
	}
	var b strings.Builder
	for _, s := range cutBlocks(text) {
		for _, line := range slices.Concat(s.lead, s.lines) {
			if name, _ := nameOf(line); s.kind != sectionInterface || !quick[name] {
				b.WriteString(line + "\n")
			}
		}
	}
	return b.String()
}
