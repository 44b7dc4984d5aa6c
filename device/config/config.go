// Package config reads and prints WireGuard configuration files: the format of wg(8) and wg-quick(8), and in it the lines of the form
//
//	#!wice Key = Value
//
// which wg and wg-quick take for comments. They stand in the section that they belong to, and are checked as strictly as the others.
// The package is pure but for [Load]: it resolves no names and asks nothing of the system, so a file means the same everywhere.
package config

import (
	"net/netip"
	"net/url"
	"strconv"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
)

// Config is what one file says. Its fields are the caller's to change.
type Config struct {
	Interface Interface
	Peers     []Peer // in the order of the file; without the interface's own key, which WireGuard ignores as a peer
	File      string // the name given to [Parse], for messages
}

// Interface is the [Interface] section.
type Interface struct {
	PrivateKey key.Private // zero: a PreUp or PostUp command sets it later
	ListenPort *uint16     // nil or 0: chosen at random
	FwMark     uint32      // 0: off

	Addresses     []netip.Prefix // with their host parts; a lone address has a full-length prefix
	DNS           []netip.Addr
	SearchDomains []string // the entries of DNS that are no addresses
	MTU           int      // 0: chosen from the route
	Table         Table
	PreUp         []string // commands for a shell; %i stands for the interface's name
	PostUp        []string
	PreDown       []string
	PostDown      []string
	SaveConfig    bool

	Signaling      []Signaling // never empty after Parse: libp2p with local discovery when the file names none
	ICEServers     []proto.ICEServer
	CandidateTypes []proto.CandidateType // nil: all
	NetworkTypes   []proto.NetworkType   // nil: all
	Tun            TunMode
	SOCKS5         Proxy
	HTTPProxy      Proxy
	Forwards       []Forward
	Lazy           bool
}

// Peer is one [Peer] section.
type Peer struct {
	PublicKey           key.Public
	PresharedKey        *key.Preshared // nil: none
	AllowedIPs          []netip.Prefix // masked, without repetitions
	Endpoint            string         // host:port, IPv6 in brackets, not resolved; "": none
	PersistentKeepalive *uint16        // seconds; nil or 0: off

	Name string
	ICE  ICEMode
	Lazy *bool // nil: as the interface
}

// Signaling names a backend and what it is told. The queries of several lines with the same backend add up.
type Signaling struct {
	Backend string
	Query   url.Values // never nil after parsing
	Line    int        // in the file; 0: from elsewhere
}

// String returns the form that [ParseSignaling] reads.
func (s Signaling) String() string {
	if len(s.Query) == 0 {
		return s.Backend
	}
	return s.Backend + ":?" + s.Query.Encode()
}

// DefaultSignaling is what an interface uses whose file names no backend: libp2p with its own defaults, so local discovery alone.
func DefaultSignaling() []Signaling {
	return []Signaling{{Backend: "libp2p", Query: url.Values{}}}
}

// Table says which routing table the routes of the allowed IPs go to: [TableAuto], [TableOff] or a decimal number.
// The zero value is [TableAuto].
type Table string

// The values of Table that are no numbers.
const (
	TableAuto Table = ""    // the main table, with a table of its own and rules for default routes
	TableOff  Table = "off" // no routes
)

// Number returns the table's number, if it has one.
func (t Table) Number() (n uint32, ok bool) {
	v, err := strconv.ParseUint(string(t), 10, 32)
	return uint32(v), err == nil
}

// String returns the form that the file has.
func (t Table) String() string {
	if t == TableAuto {
		return "auto"
	}
	return string(t)
}

// TunMode says what kind of device carries the packets.
type TunMode uint8

// The kinds of device.
const (
	TunAuto     TunMode = iota // the kernel's where permitted, else the userspace stack
	TunKernel                  // the kernel's or nothing
	TunNetstack                // the userspace stack
)

// String returns the form that the file has.
func (m TunMode) String() string {
	switch m {
	case TunAuto:
		return "auto"
	case TunKernel:
		return "kernel"
	case TunNetstack:
		return "netstack"
	}
	return "tun mode " + strconv.Itoa(int(m))
}

// ICEMode says whether a peer is negotiated with.
type ICEMode uint8

// The modes.
const (
	ICEAuto ICEMode = iota // yes; a peer that never answers remains an ordinary WireGuard peer
	ICEOff                 // no: an ordinary WireGuard peer
)

// String returns the form that the file has.
func (m ICEMode) String() string {
	switch m {
	case ICEAuto:
		return "auto"
	case ICEOff:
		return "off"
	}
	return "ICE mode " + strconv.Itoa(int(m))
}

// Proxy is where a proxy into the tunnel listens, and who may use it.
type Proxy struct {
	Off      bool   // said to be off, not just unsaid
	Listen   string // host:port of this machine; "": off
	User     string // "": everyone who can connect
	Password string
}

// String returns the form that [ParseProxy] reads, with the password hidden.
func (p Proxy) String() string {
	if p.Password != "" {
		p.Password = "(hidden)"
	}
	return p.text()
}

// text is String with the password, as it stands in the file.
func (p Proxy) text() string {
	switch {
	case p.Off:
		return proxyOff
	case p.User == "":
		return p.Listen
	}
	return p.User + ":" + p.Password + "@" + p.Listen
}

// Forward carries connections or datagrams between the userspace stack and the host.
type Forward struct {
	Network string         // "tcp" or "udp"
	Inbound bool           // listens inside the tunnel and dials outside; else the other way round
	Listen  netip.AddrPort // inbound: the port alone, the address is zero
	Target  string         // host:port
}

// String returns the form that [ParseForward] reads.
func (f Forward) String() string {
	listen := f.Listen.String()
	if f.Inbound {
		listen = "tunnel:" + strconv.Itoa(int(f.Listen.Port()))
	}
	return f.Network + " " + listen + " -> " + f.Target
}
