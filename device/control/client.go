package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// maxAnswer bounds what a client reads of one answer, in bytes: a peer takes less than 1 KiB of a status.
const maxAnswer = 128 << 20

// dialTimeout is how long a daemon may take to accept: its backlog is full only while it hangs.
const dialTimeout = 5 * time.Second

// pollInterval is how often [Client.WaitStopped] looks.
const pollInterval = 20 * time.Millisecond

// Client asks one daemon. Its methods are safe for concurrent use; their errors wrap [ErrNotRunning] if the daemon has gone.
type Client struct {
	path string
	http *http.Client
}

// Dial finds the daemon behind the socket at path. The error wraps [ErrNotRunning] if nobody answers there, and [ErrUntrusted] if
// the socket might be another user's.
func Dial(ctx context.Context, path string) (*Client, error) {
	c := &Client{path: path}
	conn, err := DialSocket(ctx, path)
	if err != nil {
		return nil, err
	}
	// The connection that answered serves the first request.
	first := make(chan net.Conn, 1)
	first <- conn
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			select {
			case conn := <-first:
				return conn, nil
			default:
				return DialSocket(ctx, path)
			}
		},
		MaxIdleConns:    1,
		IdleConnTimeout: idleTimeout / 2, // less than the server's, so that it never closes what is about to be used
	}}
	return c, nil
}

// Close ends idle connections. The client remains usable.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks for the state of the interface.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	st := new(Status)
	if err := c.ask(ctx, http.MethodGet, "/v1/status", nil, st); err != nil {
		return nil, err
	}
	return st, nil
}

// Down tells the daemon to stop. It returns when the daemon has begun to; see [Client.WaitStopped].
func (c *Client) Down(ctx context.Context) error {
	return c.ask(ctx, http.MethodPost, "/v1/down", nil, nil)
}

// Reload has the daemon read its configuration file again, and apply it.
func (c *Client) Reload(ctx context.Context) (Reloaded, error) {
	var reply Reloaded
	err := c.ask(ctx, http.MethodPost, "/v1/reload", nil, &reply)
	return reply, err
}

// Save has the daemon write the state of the interface into its configuration file.
func (c *Client) Save(ctx context.Context) error {
	return c.ask(ctx, http.MethodPost, "/v1/save", nil, nil)
}

// WaitStopped returns when nobody answers on the socket any more: a daemon closes it last.
func (c *Client) WaitStopped(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		conn, err := DialSocket(ctx, c.path)
		if errors.Is(err, ErrNotRunning) {
			return nil
		}
		if err == nil {
			conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the daemon to stop: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// Ping has one probe sent through the tunnel. The error wraps [ErrNoSuchPeer] or [ErrNoReply] where that is the reason.
func (c *Client) Ping(ctx context.Context, r PingRequest) (PingReply, error) {
	var reply PingReply
	err := c.ask(ctx, http.MethodPost, "/v1/ping", r, &reply)
	return reply, err
}

// Metrics copies the metrics to w.
func (c *Client) Metrics(ctx context.Context, w io.Writer) error {
	resp, err := c.send(ctx, http.MethodGet, "/v1/metrics", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, io.LimitReader(resp.Body, maxAnswer))
	return err
}

func (c *Client) ask(ctx context.Context, method, route string, in, out any) error {
	resp, err := c.send(ctx, method, route, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	return nil
}

// send returns the answer if it is a success.
func (c *Client) send(ctx context.Context, method, route string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://wice-go"+route, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, readError(resp)
}

// remoteError is an error of the daemon, with the sentinel that it wraps there.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

func readError(resp *http.Response) error {
	var body errorBody
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBodyBytes))
	if err != nil || json.Unmarshal(b, &body) != nil || body.Error == "" {
		return fmt.Errorf("the daemon answers %s: is it another version of wice-go?", resp.Status)
	}
	e := &remoteError{text: body.Error}
	switch body.Code {
	case codeNoSuchPeer:
		e.kind = ErrNoSuchPeer
	case codeNoReply:
		e.kind = ErrNoReply
	}
	return e
}
