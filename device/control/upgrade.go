package control

import (
	"bufio"
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

// What the connections of some requests are upgraded to (RFC 9110, section 7.8).
const (
	streamProtocol  = "wice-go-stream" // after a [DialRequest]
	attachProtocol  = "wice-go-attach" // see Server.attach
	proxiesProtocol = "wice-go-proxies"
)

// takeOver takes the connection of a request over, and tells the client so. The reader has what the client has sent already.
func takeOver(w http.ResponseWriter, protocol string) (net.Conn, *bufio.Reader, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if err = conn.SetDeadline(time.Time{}); err == nil {
		_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
	}
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, buffered.Reader, nil
}

// upgraded sends a request after which the connection is the caller's. What the daemon says is to be read from the reader.
func (c *Client) upgraded(ctx context.Context, route, protocol string, body any) (net.Conn, *bufio.Reader, error) {
	conn, err := DialSocket(ctx, c.path)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	in, err := requestUpgrade(conn, route, protocol, body)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, in, nil
}

func requestUpgrade(conn net.Conn, route, protocol string, body any) (*bufio.Reader, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodPost, "http://wice-go"+route, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", protocol)
	if err := req.Write(conn); err != nil {
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, req)
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = ErrNotRunning
		}
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		return nil, readError(resp)
	}
	return in, nil
}
