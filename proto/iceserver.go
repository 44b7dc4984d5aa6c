package proto

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// ICEScheme is the scheme of a STUN or TURN URI (RFC 7064, RFC 7065).
type ICEScheme string

// The schemes.
const (
	STUN  ICEScheme = "stun"
	STUNS ICEScheme = "stuns"
	TURN  ICEScheme = "turn"
	TURNS ICEScheme = "turns"
)

// ICETransport is the transport protocol between a client and its STUN or TURN server.
type ICETransport string

// The transports.
const (
	TransportUDP ICETransport = "udp"
	TransportTCP ICETransport = "tcp"
)

// The default ports (RFC 8489, section 18.6).
const (
	defaultPort    = 3478
	defaultTLSPort = 5349
)

var errNoSecret = errors.New("a TURN server needs user and secret: turn:user:secret@host")

// ICEServer is a STUN or TURN server and how to authenticate to it. Printed or logged, it does not show the password.
type ICEServer struct {
	Scheme    ICEScheme
	Host      string // name or address, without brackets
	Port      uint16
	Transport ICETransport
	Username  string
	Password  string
}

// IsTURN reports whether the server relays.
func (s ICEServer) IsTURN() bool { return s.Scheme == TURN || s.Scheme == TURNS }

// IsTLS reports whether the client talks TLS or DTLS to the server.
func (s ICEServer) IsTLS() bool { return s.Scheme == STUNS || s.Scheme == TURNS }

// ParseICEServer reads a URI of RFC 7064 or RFC 7065, with the credentials before the host:
//
//	stun:192.0.2.1  stun:[2001:db8::1]:3478  stuns:host  turn:user:secret@host  turns:user:secret@host:443?transport=tcp
//
// User and secret are percent-decoded; a colon in the user and an @ in either must be written %3A and %40. The port is 3478 unless
// said, 5349 for stuns and turns; the transport is UDP, for stuns and turns TCP. Errors do not contain the secret.
func ParseICEServer(s string) (ICEServer, error) {
	server, err := parseICEServer(s)
	if err == nil {
		err = server.Validate()
	}
	if err != nil {
		return ICEServer{}, fmt.Errorf("parse ICE server %q: %w", withoutSecret(s), err)
	}
	return server, nil
}

// withoutSecret shows what is safe of a text that may be anything.
func withoutSecret(s string) string {
	scheme, _, _ := strings.Cut(s, ":")
	if at := strings.LastIndexByte(s, '@'); at >= 0 {
		return scheme + ":(hidden)" + s[at:]
	}
	if !strings.HasPrefix(strings.ToLower(scheme), "stun") {
		return scheme + ":(hidden)" // the @ may have been forgotten
	}
	return s
}

func parseICEServer(s string) (server ICEServer, err error) {
	scheme, rest, found := strings.Cut(s, ":")
	if !found {
		return server, errors.New("no scheme: want stun:, stuns:, turn: or turns: before the host")
	}
	server.Scheme = ICEScheme(strings.ToLower(scheme))
	server.Transport = TransportUDP
	if server.IsTLS() {
		server.Transport = TransportTCP
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		if server.Username, server.Password, err = parseUserInfo(rest[:at]); err != nil {
			return server, err
		}
		rest = rest[at+1:]
	} else if server.IsTURN() {
		return server, errNoSecret
	}
	rest, query, hasQuery := strings.Cut(rest, "?")
	if hasQuery {
		transport, ok := strings.CutPrefix(query, "transport=")
		if !ok {
			return server, fmt.Errorf("unknown query %q: want transport=udp or transport=tcp", query)
		}
		if !server.IsTURN() {
			return server, fmt.Errorf("a %s URI has no transport (RFC 7064)", server.Scheme)
		}
		server.Transport = ICETransport(strings.ToLower(transport))
	}
	server.Host, server.Port, err = parseHostPort(rest, server.IsTLS())
	return server, err
}

func parseUserInfo(s string) (username, password string, err error) {
	user, pass, ok := strings.Cut(s, ":")
	if !ok {
		return "", "", errNoSecret
	}
	username, err1 := url.PathUnescape(user) // a plus sign stays one
	password, err2 := url.PathUnescape(pass)
	if err1 != nil || err2 != nil {
		return "", "", errors.New("user or secret: a % is not followed by two hexadecimal digits: write it as %25")
	}
	return username, password, nil
}

func parseHostPort(s string, tls bool) (host string, port uint16, err error) {
	if strings.HasPrefix(s, "//") {
		return "", 0, errors.New("no // in these URIs: the host follows the colon")
	}
	port = defaultPort
	if tls {
		port = defaultTLSPort
	}
	bracketed := strings.HasPrefix(s, "[")
	switch {
	case bracketed && strings.HasSuffix(s, "]"):
		host = s[1 : len(s)-1]
	case !bracketed && !strings.Contains(s, ":"):
		host = s
	default:
		var text string
		if host, text, err = net.SplitHostPort(s); err != nil {
			return "", 0, fmt.Errorf("host %q: want host, host:port, or [IPv6 address]:port", s)
		}
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return "", 0, fmt.Errorf("port %q: want a number up to 65535", text)
		}
		port = uint16(n)
	}
	if strings.Contains(host, ":") != bracketed {
		return "", 0, fmt.Errorf("host %q: brackets belong around IPv6 addresses, and nothing else", s)
	}
	return host, port, nil
}

// Validate reports which field of s breaks which bound.
func (s ICEServer) Validate() error {
	switch s.Scheme {
	case STUN, STUNS, TURN, TURNS:
	default:
		return fmt.Errorf("unknown scheme %q: want stun, stuns, turn or turns", string(s.Scheme))
	}
	if s.Transport != TransportUDP && s.Transport != TransportTCP {
		return fmt.Errorf("unknown transport %q: want udp or tcp", string(s.Transport))
	}
	if !s.IsTURN() && (s.Transport == TransportTCP) != s.IsTLS() {
		return fmt.Errorf("%s over %s is not supported", s.Scheme, s.Transport)
	}
	if s.Port == 0 {
		return errors.New("port 0")
	}
	if err := validHost(s.Host); err != nil {
		return fmt.Errorf("host: %w", err)
	}
	if !s.IsTURN() {
		if s.Username != "" || s.Password != "" {
			return fmt.Errorf("a %s server takes no user and secret", s.Scheme)
		}
		return nil
	}
	if s.Username == "" || s.Password == "" {
		return errNoSecret
	}
	if err := text(s.Username, MaxUsername); err != nil {
		return fmt.Errorf("user: %w", err)
	}
	if err := text(s.Password, MaxPassword); err != nil {
		return fmt.Errorf("secret: %w", err)
	}
	return nil
}

// text lets through what STUN may carry as a name or password, but no control characters. The error tells nothing of s.
func text(s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("%d bytes, want at most %d", len(s), limit)
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }) {
		return errors.New("control characters or invalid UTF-8")
	}
	return nil
}

// validHost lets loopback addresses through: unlike a candidate, a server is named by the user or by a rendezvous that the user named.
func validHost(host string) error {
	if err := printable(host, 1, MaxHost); err != nil {
		return err
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		switch {
		case addr.Zone() != "":
			return fmt.Errorf("%v: addresses with a zone are not supported", addr)
		case addr.Unmap().IsMulticast() || addr.Unmap().IsUnspecified():
			return fmt.Errorf("%v is no address of a server", addr)
		}
		return nil
	}
	for i := range len(host) {
		switch c := host[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '.', c == '_':
		default:
			return fmt.Errorf("%q in %q: want a DNS name or an IP address", c, host)
		}
	}
	return nil
}

// String returns the URI with "(hidden)" for the secret.
func (s ICEServer) String() string {
	if s.Username == "" && s.Password == "" {
		return s.uri("")
	}
	return s.uri(escape(s.Username) + ":(hidden)@")
}

// URI returns what [ParseICEServer] reads, secret included: for a configuration file.
func (s ICEServer) URI() string {
	if s.Username == "" && s.Password == "" {
		return s.uri("")
	}
	return s.uri(escape(s.Username) + ":" + escape(s.Password) + "@")
}

func (s ICEServer) uri(userInfo string) string {
	uri := string(s.Scheme) + ":" + userInfo + net.JoinHostPort(s.Host, strconv.Itoa(int(s.Port)))
	if s.IsTURN() {
		uri += "?transport=" + string(s.Transport)
	}
	return uri
}

// escape also escapes what QueryEscape would turn into a plus sign, and leaves the spaces to percent signs.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// GoString hides the secret from %#v.
func (s ICEServer) GoString() string { return "proto.ICEServer(" + s.String() + ")" }

// LogValue hides the secret from every log handler.
func (s ICEServer) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the secret from encoders such as JSON's.
func (s ICEServer) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
