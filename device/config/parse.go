package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/wice-go/wice-go/proto/key"
)

const (
	// MaxSize bounds what [Parse] reads, in bytes: more than ten times what the most peers that a device may have take.
	MaxSize = 16 << 20
	// MaxPeers is how many peers a WireGuard device may have.
	MaxPeers = 1 << 16
)

// Parse reads a configuration. The name of the file stands in messages alone. All that is wrong is reported at once, as
// [*ParseError] values joined by [errors.Join]; then there is no Config.
func Parse(file string, r io.Reader) (*Config, error) {
	c, _, err := parse(file, r, false)
	return c, err
}

func parse(file string, r io.Reader, additions bool) (*Config, []Warning, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, nil, &ParseError{File: file, Err: err}
	}
	if len(text) > MaxSize {
		return nil, nil, &ParseError{File: file, Err: ErrTooLarge}
	}
	p := newParser(file)
	p.additions = additions
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // editors of Windows leave a mark there
	for line := range bytes.Lines(text) {
		p.line++
		p.readLine(strings.TrimSpace(string(line)))
	}
	p.finish()
	if len(p.errs) > 0 {
		return nil, p.warnings, join(file, p.errs, p.dropped)
	}
	return &p.config, p.warnings, nil
}

type section uint8

const (
	sectionNone section = iota // before the first header, or after an unknown one
	sectionInterface
	sectionPeer
)

func (s section) String() string {
	switch s {
	case sectionInterface:
		return "[Interface]"
	case sectionPeer:
		return "[Peer]"
	}
	return "no section"
}

// parser is the state between two lines.
type parser struct {
	config    Config
	additions bool // all but these is for others: see [LoadAdditions]
	warnings  []Warning
	errs      []error
	dropped   int // errors beyond maxErrors

	keys map[keyID]keyDef

	line int
	text string // the current line, for messages; hidden where secret
	name string // the current line's key, as written

	section       section
	skip          bool // the section's header was not understood, so its lines are not looked at
	interfaceLine int
	seen          map[string]int // single-valued keys of the current section, and the line of each
	interfaceSeen map[string]int

	peer      Peer
	peerLine  int
	peerBad   bool // something of the peer was refused, so what is missing in it is no news
	allowed   map[netip.Prefix]int
	badKeyAt  bool // PrivateKey was there and was refused
	byKey     map[key.Public]int
	byName    map[string]int
	byPrefix  map[netip.Prefix]owner
	byListen  map[string]int
	peerLines []int
}

// owner is the peer to which an allowed IP was given last.
type owner struct {
	peer key.Public
	line int
}

func newParser(file string) *parser {
	return &parser{
		config: Config{File: file}, keys: keyTable(), interfaceSeen: make(map[string]int), byKey: make(map[key.Public]int),
		byName: make(map[string]int), byPrefix: make(map[netip.Prefix]owner), byListen: make(map[string]int),
	}
}

func (p *parser) fail(err error) { p.failAt(p.line, p.text, err) }

func (p *parser) failAt(line int, text string, err error) {
	p.peerBad = true
	if len(p.errs) == maxErrors {
		p.dropped++
		return
	}
	p.errs = append(p.errs, &ParseError{File: p.config.File, Line: line, Text: text, Err: err})
}

func (p *parser) warn(format string, args ...any) { p.warnAt(p.line, format, args...) }

func (p *parser) warnAt(line int, format string, args ...any) {
	if len(p.warnings) < maxErrors {
		p.warnings = append(p.warnings, Warning{File: p.config.File, Line: line, Text: fmt.Sprintf(format, args...)})
	}
}

func (p *parser) readLine(line string) {
	if strings.HasPrefix(line, "#") {
		p.readComment(line)
		return
	}
	line, comment, _ := strings.Cut(line, "#")
	line = strings.TrimSpace(line)
	if line == "" {
		return
	}
	if rest, ok := cutFold("!wice", comment); ok && startsValue(rest) {
		p.text, p.name = redact(line, ""), ""
		p.fail(errors.New("a \"#!wice\" line must be a line of its own"))
		return
	}
	if strings.HasPrefix(line, "[") {
		p.startSection(line)
		return
	}
	p.assign(line, false)
}

// readComment looks for lines that are meant for this program, near misses included: a line that is silently ignored is worse
// than an error.
func (p *parser) readComment(line string) {
	if rest, ok := cutFold("#!wice", line); ok {
		if startsValue(rest) {
			rest, _, _ = strings.Cut(strings.ReplaceAll(rest, "\t", " "), " #")
			p.assign(strings.TrimSpace(rest), true)
			return
		}
		p.text = redact(line, "")
		p.fail(errors.New("want a space after \"#!wice\""))
		return
	}
	// "# !wice", "#! wice", "#!wcie": perhaps another's comment, so no error.
	bare := strings.TrimSpace(strings.TrimPrefix(line, "#"))
	if rest, ok := strings.CutPrefix(bare, "!"); ok && strings.Contains(rest, "=") {
		if word := strings.Fields(rest); len(word) > 0 && distance(strings.ToLower(word[0]), "wice") <= 2 {
			p.warn("%s is taken for a comment: what is meant for wice-go begins with \"#!wice \"", shorten(redact(line, ""), 60))
		}
	}
}

// cutFold is [strings.CutPrefix] without regard to case, for an ASCII prefix.
func cutFold(prefix, s string) (rest string, ok bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

func startsValue(rest string) bool { return rest == "" || rest[0] == ' ' || rest[0] == '\t' }

func (p *parser) startSection(line string) {
	p.endPeer()
	p.skip = false
	switch name := strings.ToLower(strip(line)); name {
	case "[interface]":
		p.section, p.seen = sectionInterface, p.interfaceSeen
		if p.interfaceLine != 0 {
			p.warn("a second [Interface] section (the first is on line %d): both are taken as one", p.interfaceLine)
		} else {
			p.interfaceLine = p.line
		}
	case "[peer]":
		p.section, p.seen = sectionPeer, make(map[string]int)
		p.peer, p.peerLine, p.peerBad, p.allowed = Peer{}, p.line, false, make(map[netip.Prefix]int)
	default:
		p.section, p.skip = sectionNone, true
		p.text = redact(line, "")
		if !p.additions {
			p.fail(errors.New("not a section: want [Interface] or [Peer]"))
		}
	}
}

// strip removes all white space, as wg does before it looks at a line.
func strip(s string) string { return strings.Join(strings.Fields(s), "") }

// assign handles "Key = Value".
func (p *parser) assign(line string, wice bool) {
	if p.skip {
		return
	}
	label, value, found := strings.Cut(line, "=")
	p.name = strip(label)
	shown := line
	if wice {
		shown = "#!wice " + line
	}
	p.text = redact(shown, p.name)
	if p.additions && !wice {
		if p.section == sectionPeer && strings.EqualFold(p.name, "PublicKey") {
			if err := p.setPublicKey(strip(value)); err != nil {
				p.peerBad = true
				p.warn("%s: %v: the lines \"#!wice\" of this section don't count", p.text, err)
			}
		}
		return
	}
	if !found {
		p.fail(errors.New("want Key = Value"))
		return
	}
	if p.section == sectionNone {
		p.fail(errors.New("stands before the first section: put it under [Interface] or [Peer]"))
		return
	}
	id := keyID{section: p.section, wice: wice, name: strings.ToLower(p.name)}
	def, ok := p.keys[id]
	if !ok {
		p.fail(p.unknownKey(id))
		return
	}
	value = strings.TrimSpace(value)
	if def.stripped {
		value = strip(value)
	}
	if value == "" && !def.emptyOK {
		p.fail(errors.New("the value is missing"))
		return
	}
	if !def.repeated {
		before, again := p.seen[def.label()]
		switch {
		case again && wice:
			p.fail(fmt.Errorf("%s is on line %d already: want it once", def.name, before))
			return
		case again:
			p.warn("%s is on line %d already: the last one counts, as in wg", def.name, before)
		}
		p.seen[def.label()] = p.line
	}
	if err := def.set(p, value); err != nil {
		p.fail(err)
	}
}

// endPeer checks the peer that the lines before were about, and enters it.
func (p *parser) endPeer() {
	if p.section != sectionPeer {
		return
	}
	p.section = sectionNone
	switch {
	case p.peerBad: // reported
	case p.additions && p.peer.PublicKey.IsZero(): // for others to find
	case p.peer.PublicKey.IsZero():
		p.failAt(p.peerLine, "[Peer]", errors.New("the section has no PublicKey: it is what the other side prints with \"wice-go pubkey\""))
	case len(p.config.Peers) == MaxPeers:
		p.failAt(p.peerLine, "[Peer]", fmt.Errorf("more than %d peers: WireGuard takes no more on one interface", MaxPeers))
	default:
		p.config.Peers = append(p.config.Peers, p.peer)
		p.peerLines = append(p.peerLines, p.peerLine)
	}
}

// finish checks what can be known only at the end.
func (p *parser) finish() {
	p.endPeer()
	i := &p.config.Interface
	switch {
	case p.additions:
	case p.interfaceLine == 0:
		p.failAt(0, "", errors.New("there is no [Interface] section"))
	case i.PrivateKey.IsZero() && !p.badKeyAt && !setsPrivateKey(i.PreUp) && !setsPrivateKey(i.PostUp):
		p.failAt(p.interfaceLine, "[Interface]", ErrNoPrivateKey)
	case !i.PrivateKey.IsZero():
		p.dropSelf(i.PrivateKey.Public())
	}
	if len(i.Signaling) == 0 {
		i.Signaling = DefaultSignaling()
	}
	p.checkPeers()
}

// setsPrivateKey recognises the way that wg-quick(8) shows for keys kept elsewhere: PostUp = wg set %i private-key <(pass ...).
func setsPrivateKey(commands []string) bool {
	for _, c := range commands {
		if strings.Contains(c, "private-key") {
			return true
		}
	}
	return false
}

// dropSelf removes the interface's own key from the peers: one list of peers may be shared by all members of a network, and
// WireGuard ignores the own key as well.
func (p *parser) dropSelf(self key.Public) {
	for n, peer := range p.config.Peers {
		if peer.PublicKey == self {
			p.warnAt(p.peerLines[n], "the peer %s is this interface itself: it is ignored, as in WireGuard", self.Short())
			p.config.Peers = append(p.config.Peers[:n], p.config.Peers[n+1:]...)
			p.peerLines = append(p.peerLines[:n], p.peerLines[n+1:]...)
			return // more of them were refused as duplicates
		}
	}
}

// checkPeers looks for an allowed IP that two peers have: the last one keeps it.
func (p *parser) checkPeers() {
	for n, peer := range p.config.Peers {
		for _, prefix := range peer.AllowedIPs {
			if before, taken := p.byPrefix[prefix]; taken {
				p.warnAt(p.peerLines[n], "the allowed IP %v belongs to the peer %s (line %d) too: it goes to the last one, %s, as in WireGuard",
					prefix, before.peer.Short(), before.line, peer.PublicKey.Short())
			}
			p.byPrefix[prefix] = owner{peer.PublicKey, p.peerLines[n]}
		}
	}
}
