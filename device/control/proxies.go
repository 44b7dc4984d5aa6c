package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
)

// Proxies are two proxies into the tunnel, for one program alone: nobody else knows user and password.
type Proxies struct {
	SOCKS5   netip.AddrPort `json:"socks5"`
	HTTP     netip.AddrPort `json:"http"`
	User     string         `json:"user"`
	Password string         `json:"password"`
}

// proxies serves proxies on loopback for as long as the client keeps the connection.
func (s *Server) proxies(w http.ResponseWriter, r *http.Request) {
	p, end, err := s.daemon.Proxies()
	if err != nil {
		s.fail(w, err)
		return
	}
	defer end.Close()
	conn, _, err := takeOver(w, proxiesProtocol) // the client says nothing
	if err != nil {
		s.fail(w, err)
		return
	}
	defer conn.Close()
	defer context.AfterFunc(s.ctx, func() { conn.Close() })()
	if json.NewEncoder(conn).Encode(p) == nil {
		conn.Read(make([]byte, 1))
	}
}

// Proxies asks for proxies into the tunnel, which end when the Closer is closed or this process ends.
func (c *Client) Proxies(ctx context.Context) (Proxies, io.Closer, error) {
	conn, in, err := c.upgraded(ctx, "/v1/proxies", proxiesProtocol, struct{}{})
	if err != nil {
		return Proxies{}, nil, err
	}
	var p Proxies
	if err := json.NewDecoder(in).Decode(&p); err != nil {
		return Proxies{}, nil, errors.Join(fmt.Errorf("read the daemon's answer: %w", err), conn.Close())
	}
	return p, conn, nil
}
