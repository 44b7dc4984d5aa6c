package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
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

	// upgrade is what a connection becomes after a [DialRequest].
	upgrade = "wice-go-stream"
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
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		out.Close()
		s.fail(w, err)
		return
	}
	defer conn.Close()
	if c, ok := conn.(*limitedConn); ok {
		conn = c.Conn // which writes a frame in one go
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+upgrade+"\r\n\r\n"); err != nil {
		out.Close()
		return
	}
	client := newStream(conn, buffered.Reader, req.Network == "udp")
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
	conn, err := DialSocket(ctx, c.path)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	s, err := requestStream(conn, r)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

// Conn is a connection of which one direction can end before the other.
type Conn interface {
	net.Conn
	CloseWrite() error
}

func requestStream(conn net.Conn, r DialRequest) (*stream, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	const head = "POST /v1/dial HTTP/1.1\r\nHost: wice-go\r\nConnection: Upgrade\r\nUpgrade: " + upgrade + "\r\nContent-Length: %d\r\n\r\n%s"
	if _, err := fmt.Fprintf(conn, head, len(body), body); err != nil {
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = ErrNotRunning
		}
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, readError(resp)
	}
	return newStream(conn, in, r.Network == "udp"), nil
}
