package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"

	"github.com/wice-go/wice-go/proto"
)

// The functions of this file read one value each. Flags use them too, so a flag and a line of the file mean the same.

// maxHostLength is the longest host name in text (RFC 1035, section 2.3.4).
const maxHostLength = 253

// ParseSignaling reads "backend" or "backend:?key=value&key=value". Which backends and keys there are is not checked here.
func ParseSignaling(s string) (Signaling, error) {
	s = strings.TrimSpace(s)
	name, rest, colon := strings.Cut(s, ":")
	if !colon {
		name, rest, colon = strings.Cut(s, "?")
		if colon {
			return Signaling{}, fmt.Errorf("there is no colon before the question mark: write %s:?%s", shorten(name, 40), shorten(rest, 60))
		}
	}
	name = strings.ToLower(name)
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return Signaling{}, fmt.Errorf("%q is not the name of a backend: want for example libp2p or libp2p:?mdns=false", shorten(name, 40))
	}
	rest, question := strings.CutPrefix(rest, "?")
	if rest != "" && !question {
		return Signaling{}, fmt.Errorf("%q must begin with a question mark: want for example %s:?key=value", shorten(rest, 40), name)
	}
	query, err := url.ParseQuery(rest)
	if err != nil {
		return Signaling{}, fmt.Errorf("the part after the question mark: %w: want key=value&key=value", err)
	}
	if query.Has("") {
		return Signaling{}, errors.New("a key is empty: want key=value&key=value after the question mark")
	}
	return Signaling{Backend: name, Query: query}, nil
}

// ParseCandidateTypes reads a list such as "host,srflx,relay", without repetitions in the result.
func ParseCandidateTypes(s string) ([]proto.CandidateType, error) {
	return parseList(s, "candidate types: want some of host,srflx,relay", proto.ParseCandidateType)
}

// ParseNetworkTypes reads a list such as "udp4,udp6,tcp4,tcp6", without repetitions in the result.
func ParseNetworkTypes(s string) ([]proto.NetworkType, error) {
	return parseList(s, "network types: want some of udp4,udp6,tcp4,tcp6", proto.ParseNetworkType)
}

func parseList[T comparable](s, what string, parse func(string) (T, error)) (list []T, err error) {
	seen := make(map[T]bool)
	for item := range strings.SplitSeq(s, ",") {
		item = strings.ToLower(strings.TrimSpace(item))
		if item == "" {
			return nil, fmt.Errorf("an empty entry in a list of %s", what)
		}
		v, err := parse(shorten(item, 40))
		if err != nil {
			return nil, err
		}
		if !seen[v] {
			seen[v] = true
			list = append(list, v)
		}
	}
	return list, nil
}

// ParseTun reads auto, kernel or netstack.
func ParseTun(s string) (TunMode, error) {
	for _, m := range []TunMode{TunAuto, TunKernel, TunNetstack} {
		if strings.EqualFold(strings.TrimSpace(s), m.String()) {
			return m, nil
		}
	}
	return 0, fmt.Errorf("%q is not a kind of device: want auto, kernel or netstack", shorten(s, 40))
}

// ParseICEMode reads auto or off.
func ParseICEMode(s string) (ICEMode, error) {
	for _, m := range []ICEMode{ICEAuto, ICEOff} {
		if strings.EqualFold(strings.TrimSpace(s), m.String()) {
			return m, nil
		}
	}
	return 0, fmt.Errorf("%q: want auto or off", shorten(s, 40))
}

// ParseBool reads true or false, as wg-quick does for SaveConfig.
func ParseBool(s string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%q: want true or false", shorten(s, 40))
}

// maxCredential is the length, in bytes, that SOCKS 5 permits a user and a password (RFC 1929, section 2).
const maxCredential = 255

// proxyOff is the value of a proxy that is not wanted.
const proxyOff = "off"

// ParseProxy reads the address that a proxy listens on, such as 127.0.0.1:1080 or localhost:1080, and before it, if not everyone may
// use the proxy, user:password@. "off" gives the zero value. A host is required: a proxy for other machines has to be asked for by its
// address, 0.0.0.0 or [::]. No error has a part of the password.
func ParseProxy(s string) (Proxy, error) {
	s = strings.TrimSpace(s)
	if strings.EqualFold(s, proxyOff) {
		return Proxy{Off: true}, nil
	}
	var p Proxy
	at := strings.LastIndexByte(s, '@')
	if at >= 0 {
		var colon bool
		if p.User, p.Password, colon = strings.Cut(s[:at], ":"); !colon {
			return Proxy{}, errors.New("the user has no password: want for example user:password@127.0.0.1:1080")
		}
		if err := errors.Join(checkCredential("user", p.User), checkCredential("password", p.Password)); err != nil {
			return Proxy{}, err
		}
	}
	listen, err := parseListenAddr(s[at+1:])
	if err != nil && hidesSecret(s[at+1:]) {
		err = errors.New("not an address to listen on: want for example 127.0.0.1:1080 or user:password@127.0.0.1:1080")
	}
	if err == nil && listen.Port() == 0 {
		err = errors.New("a proxy listens on a port that others know, so not on 0: want for example 127.0.0.1:1080")
	}
	if err != nil {
		return Proxy{}, err
	}
	p.Listen = listen.String()
	return p, nil
}

// hidesSecret reports whether what should be the address of a proxy may have a password in it, because its @ was forgotten.
func hidesSecret(s string) bool {
	host, _, _ := strings.Cut(s, ":")
	return strings.Trim(s, "0123456789abcdefABCDEF.:[]") != "" && !strings.EqualFold(host, "localhost")
}

func checkCredential(what, s string) error {
	switch {
	case s == "":
		return fmt.Errorf("the %s is empty: want for example user:password@127.0.0.1:1080", what)
	case len(s) > maxCredential:
		return fmt.Errorf("the %s has %d bytes: want at most %d", what, len(s), maxCredential)
	}
	for _, r := range s {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) || unicode.IsSpace(r) {
			return fmt.Errorf("the %s has a space, or a character that can't be printed", what)
		}
	}
	return nil
}

func parseListenAddr(s string) (netip.AddrPort, error) {
	fail := func(why string) (netip.AddrPort, error) {
		return netip.AddrPort{}, fmt.Errorf("%q is not an address to listen on: %s: want for example 127.0.0.1:1080", shorten(s, 60), why)
	}
	host, port, err := splitHostPort(s)
	if err != nil {
		return fail(err.Error())
	}
	if strings.EqualFold(host, "localhost") {
		host = "127.0.0.1"
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return fail("the host is not an IP address of this machine")
	}
	return netip.AddrPortFrom(addr.Unmap(), port), nil
}

// ParseForward reads "tcp LISTEN -> TARGET" or "udp LISTEN -> TARGET". LISTEN is an IP address and port of this machine, then
// TARGET is reached through the tunnel; or it is tunnel:PORT, then TARGET is reached from this machine.
func ParseForward(s string) (Forward, error) {
	const want = "want for example \"tcp 127.0.0.1:8080 -> 10.0.0.2:80\" or \"tcp tunnel:22 -> 127.0.0.1:22\""
	left, target, arrow := strings.Cut(s, "->")
	fields := strings.Fields(left)
	if !arrow || len(fields) != 2 {
		return Forward{}, fmt.Errorf("%q is not a forward: %s", shorten(s, 80), want)
	}
	f := Forward{Network: strings.ToLower(fields[0])}
	if f.Network != "tcp" && f.Network != "udp" {
		return Forward{}, fmt.Errorf("%q is neither tcp nor udp: %s", shorten(fields[0], 40), want)
	}
	if tunnelPort, ok := cutTunnel(fields[1]); ok {
		port, err := parsePort(tunnelPort)
		if err != nil {
			return Forward{}, fmt.Errorf("%q: %w: %s", shorten(fields[1], 40), err, want)
		}
		f.Inbound, f.Listen = true, netip.AddrPortFrom(netip.Addr{}, port)
	} else {
		ap, err := parseListenAddr(fields[1])
		if err != nil {
			return Forward{}, err
		}
		f.Listen = ap
	}
	if f.Listen.Port() == 0 {
		return Forward{}, fmt.Errorf("%q: a forward listens on a port that others know, so not on 0: %s", shorten(s, 80), want)
	}
	var err error
	target = strings.TrimSpace(target)
	if _, ok := cutTunnel(target); ok {
		return Forward{}, fmt.Errorf("%q: tunnel stands before the arrow alone: %s", shorten(s, 80), want)
	}
	if f.Target, err = ParseEndpoint(target); err != nil {
		return Forward{}, fmt.Errorf("the target of the forward: %w", err)
	}
	return f, nil
}

func cutTunnel(s string) (port string, ok bool) {
	host, port, ok := strings.Cut(s, ":")
	return port, ok && strings.EqualFold(host, "tunnel")
}

// ParseEndpoint reads host:port, with an IPv6 host in brackets or, as wg takes it too, without. It returns the form with
// brackets. A host name is not resolved; the port is a number other than 0.
func ParseEndpoint(s string) (string, error) {
	host, port, err := splitHostPort(s)
	if err == nil && port == 0 {
		err = errors.New("port 0 can't be sent to")
	}
	if err != nil {
		return "", fmt.Errorf("%q: %w: want HOST:PORT, for example 192.0.2.1:51820, [2001:db8::1]:51820 or vpn.example.com:51820", shorten(s, 80), err)
	}
	return joinHostPort(host, port), nil
}

func joinHostPort(host string, port uint16) string {
	if addr, err := netip.ParseAddr(host); err == nil {
		return netip.AddrPortFrom(addr.Unmap(), port).String()
	}
	return host + ":" + strconv.Itoa(int(port))
}

// splitHostPort takes a string apart at its last colon, or after the closing bracket.
func splitHostPort(s string) (host string, port uint16, err error) {
	var rest string
	if inner, bracketed := strings.CutPrefix(s, "["); bracketed {
		var closed bool
		if host, rest, closed = strings.Cut(inner, "]"); !closed {
			return "", 0, errors.New("the closing bracket is missing")
		}
		rest, closed = strings.CutPrefix(rest, ":")
		if !closed || rest == "" {
			return "", 0, errors.New("the port is missing")
		}
		if addr, err := netip.ParseAddr(host); err != nil || !addr.Is6() {
			return "", 0, errors.New("what stands in brackets is not an IPv6 address")
		}
	} else {
		colon := strings.LastIndexByte(s, ':')
		if colon < 0 || colon == len(s)-1 {
			return "", 0, errors.New("the port is missing")
		}
		host, rest = s[:colon], s[colon+1:]
	}
	if err := checkHost(host); err != nil {
		return "", 0, err
	}
	port, err = parsePort(rest)
	return host, port, err
}

func checkHost(host string) error {
	if host == "" {
		return errors.New("the host is missing")
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if strings.Contains(host, ":") {
		return errors.New("the port is missing, or the host is not an IPv6 address")
	}
	if len(host) > maxHostLength {
		return fmt.Errorf("the host name is longer than %d characters", maxHostLength)
	}
	for _, r := range host {
		if r != '-' && r != '_' && r != '.' && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return fmt.Errorf("the host name has the character %q", r)
		}
	}
	return nil
}

func parsePort(s string) (uint16, error) {
	n, err := parseDigits(s, 65535)
	if err != nil {
		return 0, fmt.Errorf("port %q is not a number from 0 to 65535", shorten(s, 40))
	}
	return uint16(n), nil
}

// parseDigits refuses signs and underscores, which strconv would take.
func parseDigits(s string, limit uint64) (uint64, error) {
	if s == "" || s[0] < '0' || s[0] > '9' {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err == nil && n > limit {
		err = strconv.ErrRange
	}
	return n, err
}

// parsePrefix reads ADDRESS/LENGTH or ADDRESS, with host bits kept. A dotted netmask is taken only for Address, as ip(8) does.
func parsePrefix(s string, netmask bool) (netip.Prefix, error) {
	host, length, slash := strings.Cut(s, "/")
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is not an IP address: want ADDRESS/LENGTH, for example 10.0.0.0/24 or 2001:db8::/64", shorten(s, 60))
	}
	if !slash {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if mask, err := netip.ParseAddr(length); netmask && err == nil && addr.Is4() && mask.Is4() {
		for bits := range 33 {
			if p, err := netip.AddrFrom4([4]byte{255, 255, 255, 255}).Prefix(bits); err == nil && p.Addr() == mask {
				return netip.PrefixFrom(addr, bits), nil
			}
		}
	}
	bits, err := parseDigits(length, uint64(addr.BitLen()))
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q: the part after the slash is not a prefix length from 0 to %d", shorten(s, 60), addr.BitLen())
	}
	return netip.PrefixFrom(addr, int(bits)), nil
}

// ParseTable reads off, auto, a number, or one of the names that every Linux has: main, local and default.
func ParseTable(s string) (Table, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	switch s {
	case "", "auto":
		return TableAuto, nil
	case "off":
		return TableOff, nil
	case "default":
		return "253", nil
	case "main":
		return "254", nil
	case "local":
		return "255", nil
	}
	digits, hex := strings.CutPrefix(s, "0x")
	base := 10
	if hex {
		base = 16
	}
	n, err := strconv.ParseUint(digits, base, 32)
	if err != nil || n == 0 {
		return "", fmt.Errorf("%q is not a routing table: want auto, off, main or a number from 1 to 4294967295", shorten(s, 40))
	}
	return Table(strconv.FormatUint(n, 10)), nil
}

// ParseFwMark reads off, a decimal number or, after 0x, a hexadecimal one.
func ParseFwMark(s string) (uint32, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	if s == "off" {
		return 0, nil
	}
	var n uint64
	var err error
	if digits, hex := strings.CutPrefix(s, "0x"); hex {
		n, err = strconv.ParseUint(digits, 16, 32)
	} else {
		n, err = parseDigits(s, 1<<32-1)
	}
	if err != nil {
		return 0, fmt.Errorf("%q is not a mark: want off or a number from 0 to 0xffffffff", shorten(s, 40))
	}
	return uint32(n), nil
}

// ParseName reads the name that people give a peer: 1 to 63 printable characters.
func ParseName(s string) (string, error) {
	s = strings.TrimSpace(s)
	switch n := len([]rune(s)); {
	case n == 0:
		return "", errors.New("the name is empty")
	case n > 63:
		return "", fmt.Errorf("the name has %d characters: want at most 63", n)
	}
	for _, r := range s {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return "", errors.New("the name has a character that can't be printed")
		}
	}
	return s, nil
}
