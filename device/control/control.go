// Package control is how commands talk to a running daemon: HTTP with JSON bodies over a Unix socket that only its owner and root
// may use, or over a named pipe on Windows.
//
//	GET  /v1/status   Status
//	POST /v1/down     {}; the daemon begins to stop
//	POST /v1/reload   Reloaded; the file is read again
//	POST /v1/save     {}; the file is written
//	POST /v1/ping     PingRequest -> PingReply, one probe
//	POST /v1/dial     DialRequest -> 101 Switching Protocols, then frames: one connection through the tunnel
//	GET  /v1/metrics  text in the Prometheus exposition format
//	POST /v1/attach   upgraded: Network; a network stack's device -> its ports (Linux)
//	POST /v1/proxies  upgraded: Proxies, which last as long as the connection
//
// An error is a status code other than 200 and {"error": text, "code": code}; the code is one of a few that callers branch on.
// The socket is also the lock of an interface: [Listen] takes over a socket that a crashed daemon left, and refuses one that answers.
package control

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"time"
)

var (
	// ErrNotRunning says that no daemon answers for the interface.
	ErrNotRunning = errors.New("no daemon is running")
	// ErrInUse says that a daemon answers on the socket already.
	ErrInUse = errors.New("a daemon is running for this interface already")
	// ErrNoSuchPeer is what [Daemon.Ping] returns for a peer that the interface does not have.
	ErrNoSuchPeer = errors.New("no such peer")
	// ErrNoReply is what [Daemon.Ping] returns when the probe was sent and nothing came back in time.
	ErrNoReply = errors.New("no reply")
	// ErrUntrusted says that the socket lies where other users could have put it.
	ErrUntrusted = errors.New("another user could have put the socket there")
)

// Daemon is what the server asks. Its methods are called concurrently, and honour ctx, which ends when the client goes away.
type Daemon interface {
	// Status returns a snapshot that the server only reads.
	Status(ctx context.Context) (*Status, error)

	// Down begins to stop the daemon and returns at once: the answer is sent before [Server.Close] ends the connection.
	Down(ctx context.Context) error

	// Reload reads the configuration file again and applies it. An error of the file changes nothing.
	Reload(ctx context.Context) (Reloaded, error)

	// Save writes the state of the interface into its configuration file.
	Save(ctx context.Context) error

	// Ping sends one probe through the tunnel and waits for its reply. It returns [ErrNoSuchPeer], [ErrNoReply], or errors that
	// wrap them.
	Ping(ctx context.Context, r PingRequest) (PingReply, error)

	// Metrics writes the Prometheus text format. [WriteMetrics] does so for a [Status].
	Metrics(w io.Writer) error

	// Network says what a network stack needs to take part in the tunnel. Its client is one from then on until ctx ends.
	Network(ctx context.Context) (Network, error)

	// Proxies starts two proxies into the tunnel, which end when the Closer is closed.
	Proxies() (Proxies, io.Closer, error)

	// Attach lets the stack behind a device take part. The file is the daemon's from then on.
	Attach(device *os.File) (Attached, error)
}

// Reloaded is what came of a reload. None of it has secrets.
type Reloaded struct {
	Changed  []string `json:"changed"`            // what has changed, for people; empty: nothing
	Pending  []string `json:"pending,omitempty"`  // keys of [Interface] that need "down" and "up"
	Warnings []string `json:"warnings,omitempty"` // about the file, or about what could not be set up
}

// MaxPingTimeout is the longest that one probe waits.
const MaxPingTimeout = time.Minute

// PingRequest asks for one probe.
type PingRequest struct {
	// Peer is the peer's name, its public key or the beginning of it, or one of its overlay addresses.
	Peer string `json:"peer"`
	// TimeoutMs is how long the reply may take, in milliseconds. 0: 5 seconds. More than [MaxPingTimeout] is cut.
	TimeoutMs int64 `json:"timeoutMs,omitempty"`
}

// PingReply is the reply to one probe.
type PingReply struct {
	PublicKey   string      `json:"publicKey"`
	Name        string      `json:"name"`
	Address     netip.Addr  `json:"address"` // the overlay address that replied
	RoundTripMs float64     `json:"roundTripMs"`
	Path        *PathStatus `json:"path,omitempty"` // the path when the reply came; nil: none known
}

// The codes of the error body.
const (
	codeNoSuchPeer = "no-such-peer"
	codeNoReply    = "no-reply"
)

type errorBody struct {
	Error string `json:"error"`
	Code  string `json:"code,omitempty"`
}
