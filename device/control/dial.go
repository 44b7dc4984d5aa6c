package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// maxStreams is how many connections through the daemon there may be at a time. They are counted apart from those of commands, which
	// need an answer however many there are.
	maxStreams = 256

	// DialTimeout is the longest that a connection into the tunnel takes to be made.
	DialTimeout = 10 * time.Second
)

// Tunnel is the way into the tunnel that the kernel does not know: a userspace stack. Its methods are called concurrently.
type Tunnel interface {
	// DialPromptly connects to HOST:PORT by "tcp" or "udp". A name is that of a peer, or is asked of the tunnel's DNS servers.
	DialPromptly(ctx context.Context, network, address string) (net.Conn, error)

	// Carry copies both ways until both directions have ended or ctx has, and closes both. A method CloseWithError(error) of a connection
	// takes what went wrong.
	Carry(ctx context.Context, client, out net.Conn)
}

// DialRequest asks for a connection through the tunnel. The answer is 101 Switching Protocols, and the connection on which it came is the
// one that was asked for, in the frames of [Client.DialTunnel].
type DialRequest struct {
	Network string `json:"network"` // "tcp" or "udp"
	Address string `json:"address"` // HOST:PORT
}

// dial serves a [DialRequest] until its connection has ended.
func (s *Server) dial(w http.ResponseWriter, r *http.Request) {
	var req DialRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		s.write(w, http.StatusBadRequest, errorBody{Error: "read dial request: " + err.Error()})
		return
	}
	w.Header().Set("Connection", "close")
	var tunnel Tunnel
	if s.tunnel != nil {
		tunnel = s.tunnel()
	}
	if tunnel == nil {
		s.write(w, http.StatusNotImplemented, errorBody{Error: "the kernel's stack carries this tunnel: connect by that"})
		return
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		s.write(w, http.StatusServiceUnavailable, errorBody{Error: fmt.Sprintf("there are %d connections through the daemon already", cap(s.streams))})
		return
	}
	if c, ok := r.Context().Value(connKey{}).(*limitedConn); ok {
		c.free()
	}
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	out, err := dialFor(ctx, r.Context(), tunnel, req)
	if err != nil {
		s.fail(w, err)
		return
	}
	conn, in, err := takeOver(w, streamProtocol)
	if err != nil {
		out.Close()
		s.fail(w, err)
		return
	}
	defer conn.Close()
	if c, ok := conn.(*limitedConn); ok {
		conn = c.Conn // which writes a frame in one go
	}
	client := newStream(conn, in, req.Network == "udp")
	var watch sync.WaitGroup
	client.last = func() {
		watch.Go(func() { // a client that has nothing more to say may still go away
			io.Copy(io.Discard, client.in)
			cancel()
		})
	}
	tunnel.Carry(ctx, client, out)
	conn.Close()
	watch.Wait()
}

// dialFor connects while the client waits for it.
func dialFor(ctx, client context.Context, tunnel Tunnel, r DialRequest) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, DialTimeout)
	defer cancel()
	defer context.AfterFunc(client, cancel)()
	if r.Network != "tcp" && r.Network != "udp" {
		return nil, fmt.Errorf("network %q: want tcp or udp", r.Network)
	}
	return tunnel.DialPromptly(ctx, r.Network, r.Address)
}

// DialTunnel has the daemon connect through the tunnel to HOST:PORT, by "tcp" or "udp", where it has a userspace stack. Each Read and Write of
// a UDP connection is a datagram. What ends the connection otherwise than by its end is an error of Read, with the daemon's words.
func (c *Client) DialTunnel(ctx context.Context, r DialRequest) (Conn, error) {
	conn, in, err := c.upgraded(ctx, "/v1/dial", streamProtocol, r)
	if err != nil {
		return nil, err
	}
	return newStream(conn, in, r.Network == "udp"), nil
}

// Conn is a connection of which one direction can end before the other.
type Conn interface {
	net.Conn
	CloseWrite() error
}
