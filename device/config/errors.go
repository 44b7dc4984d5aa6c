package config

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/wice-go/wice-go/proto"
)

var (
	// ErrNoPrivateKey says that nothing gives the interface its key.
	ErrNoPrivateKey = errors.New("[Interface] has no PrivateKey: make one with \"wice-go genkey\"")
	// ErrTooLarge says that the input is longer than [MaxSize].
	ErrTooLarge = errors.New("larger than 16 MiB: this is no configuration file")
)

// maxErrors bounds what is reported of one file: who gave the wrong kind of file need not read every line of it.
const maxErrors = 20

// ParseError is one thing wrong with a file.
type ParseError struct {
	File string
	Line int    // counted from 1; 0: the file as a whole
	Text string // the line, shortened, with secrets hidden; may be empty
	Err  error  // what is wrong and what to write instead
}

// Error returns "file:line: text: what is wrong".
func (e *ParseError) Error() string {
	var b strings.Builder
	b.WriteString(position(e.File, e.Line))
	if e.Text != "" {
		b.WriteString(e.Text + ": ")
	}
	b.WriteString(e.Err.Error())
	return b.String()
}

// Unwrap returns the cause.
func (e *ParseError) Unwrap() error { return e.Err }

// Warning is something that works, though hardly as it was meant.
type Warning struct {
	File string
	Line int // 0: the file as a whole
	Text string
}

// String returns "file:line: text".
func (w Warning) String() string { return position(w.File, w.Line) + w.Text }

func position(file string, line int) string {
	if file == "" {
		file = "configuration"
	}
	if line == 0 {
		return file + ": "
	}
	return file + ":" + strconv.Itoa(line) + ": "
}

var keyShaped = regexp.MustCompile(`[A-Za-z0-9+/]{40,}=*`)

// redact shortens a line for a message and takes out what must not end in a log or on a screen: keys, and the user information
// of an ICE server. The value of a key that holds a secret is left out altogether, whatever it looks like.
func redact(line, name string) string {
	const limit = 120
	label, value, found := strings.Cut(line, "=")
	switch strings.ToLower(name) {
	case "publickey", "signaling":
	case "iceserver":
		if found {
			line = label + "=" + redactUserinfo(value)
		}
	case "socks5", "httpproxy":
		if at := strings.LastIndexByte(value, '@'); at >= 0 {
			line = label + "= (hidden)" + value[at:]
		} else if hidesSecret(strings.TrimSpace(value)) {
			line = label + "= (hidden)"
		}
	default:
		lower := strings.ToLower(name)
		if found && (strings.Contains(lower, "key") || strings.Contains(lower, "private") || strings.Contains(lower, "secret")) {
			return shorten(strings.TrimSpace(label), limit) + " = (hidden)"
		}
		if found && strings.Contains(value, "@") {
			line = label + "=" + redactUserinfo(value)
		}
		line = keyShaped.ReplaceAllString(line, "(hidden)")
	}
	return shorten(line, limit)
}

// redactUserinfo hides what stands before the last @ of a STUN or TURN URI, or all of one for TURN whose @ was forgotten.
func redactUserinfo(s string) string {
	scheme, _, _ := strings.Cut(s, ":")
	at := strings.LastIndexByte(s, '@')
	switch {
	case at >= 0:
		return scheme[:min(len(scheme), at)] + ":(hidden)" + s[at:]
	case strings.EqualFold(strings.TrimSpace(scheme), string(proto.STUN)):
		return s
	}
	return scheme + ":(hidden)"
}

// shorten makes s printable on one line of at most limit runes.
func shorten(s string, limit int) string {
	clean := strings.ToValidUTF8(s, "?")
	clean = strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, clean)
	if runes := []rune(clean); len(runes) > limit {
		return string(runes[:limit]) + "..."
	}
	return clean
}

// join turns what was found into one error, in the order of the lines.
func join(file string, errs []error, dropped int) error {
	if dropped > 0 {
		errs = append(errs, &ParseError{File: file, Err: fmt.Errorf("and %d more errors", dropped)})
	}
	return errors.Join(errs...)
}
