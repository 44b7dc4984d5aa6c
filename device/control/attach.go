package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"
)

// Network is what a network stack needs to take part in an interface's tunnel.
type Network struct {
	Interface     string                  `json:"interface"`
	MTU           int                     `json:"mtu"` // bytes
	Addresses     []netip.Prefix          `json:"addresses"`
	Routes        []netip.Prefix          `json:"routes"` // the allowed IPs of all peers
	DNS           []netip.Addr            `json:"dns"`
	SearchDomains []string                `json:"searchDomains"`
	Hosts         map[string][]netip.Addr `json:"hosts"` // the peers' names
}

// Attached is a network stack that takes part in the tunnel.
type Attached interface {
	// Range returns the first and the last of the local ports that the stack should choose its own from.
	Range() (first, last uint16)

	// Done is closed when the stack takes part no more.
	Done() <-chan struct{}

	// Close ends its part. It is idempotent.
	Close() error
}

// attachReply is the daemon's second answer, after it has got the file.
type attachReply struct {
	Error     string `json:"error,omitempty"`
	FirstPort uint16 `json:"firstPort,omitempty"`
	LastPort  uint16 `json:"lastPort,omitempty"`
}

// attachProtocol is what the connection is upgraded to (RFC 9110, section 7.8).
const attachProtocol = "wice-attach"

// attachTimeout is how long a client may take to make its namespace, and the daemon to take it in.
const attachTimeout = 30 * time.Second

// attach answers a client that wants to attach a network stack:
//
//	daemon -> client: 101 Switching Protocols, Network
//	client -> daemon: a byte, with the descriptor of the stack's device
//	daemon -> client: attachReply
//
// The stack takes part until either end closes the connection.
func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	network, err := s.daemon.Network(r.Context())
	if err != nil {
		s.fail(w, err)
		return
	}
	conn, err := upgrade(w, attachProtocol)
	if err != nil {
		s.fail(w, err)
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(attachTimeout))
	answer := json.NewEncoder(conn)
	if answer.Encode(network) != nil {
		return
	}
	file, err := receiveFile(conn)
	if err != nil {
		answer.Encode(attachReply{Error: err.Error()})
		return
	}
	attached, err := s.daemon.Attach(file)
	if err != nil {
		answer.Encode(attachReply{Error: err.Error()})
		return
	}
	defer attached.Close()
	first, last := attached.Range()
	if answer.Encode(attachReply{FirstPort: first, LastPort: last}) != nil {
		return
	}
	conn.SetDeadline(time.Time{})
	go func() {
		<-attached.Done()
		conn.Close()
	}()
	conn.Read(make([]byte, 1)) // the client says no more
}

// upgrade takes the connection of a request over, and tells the client so. Nothing of what the client sent after the request may have been read:
// it waits for the answer.
func upgrade(w http.ResponseWriter, protocol string) (net.Conn, error) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err == nil {
		_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// Attachment is the client's end of a network stack's part in the tunnel.
type Attachment struct {
	Network Network
	conn    net.Conn
	in      *json.Decoder
	done    chan struct{}
}

// Attach asks for a part in the tunnel. It must be closed.
func (c *Client) Attach(ctx context.Context) (*Attachment, error) {
	conn, in, err := c.upgraded(ctx, "/v1/attach", attachProtocol)
	if err != nil {
		return nil, err
	}
	a := &Attachment{conn: conn, in: json.NewDecoder(in), done: make(chan struct{})}
	if err := a.in.Decode(&a.Network); err != nil {
		return nil, errors.Join(fmt.Errorf("read the daemon's answer: %w", err), conn.Close())
	}
	return a, nil
}

// upgraded sends a request that the daemon takes the connection over for. What it says is to be read from the reader.
func (c *Client) upgraded(ctx context.Context, route, protocol string) (net.Conn, *bufio.Reader, error) {
	conn, err := DialSocket(ctx, c.path)
	if err != nil {
		return nil, nil, err
	}
	in, err := ask(ctx, conn, route, protocol)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, in, nil
}

func ask(ctx context.Context, conn net.Conn, route, protocol string) (*bufio.Reader, error) {
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	req, err := http.NewRequest(http.MethodPost, "http://wice-go"+route, nil)
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
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, readError(resp)
	}
	return in, nil
}

// Send hands over the file of the stack's device, and returns the first and the last of the local ports that the stack should choose its own
// from. It is called once.
func (a *Attachment) Send(file *os.File) (first, last uint16, err error) {
	if err := sendFile(a.conn, file); err != nil {
		return 0, 0, fmt.Errorf("hand the interface to the daemon: %w", err)
	}
	var reply attachReply
	if err := a.in.Decode(&reply); err != nil {
		return 0, 0, fmt.Errorf("read the daemon's answer: %w", err)
	}
	if reply.Error != "" {
		return 0, 0, errors.New(reply.Error)
	}
	go func() {
		defer close(a.done)
		a.conn.Read(make([]byte, 1))
	}()
	return reply.FirstPort, reply.LastPort, nil
}

// Done is closed, after Send has succeeded, when the daemon has ended the stack's part, or its own.
func (a *Attachment) Done() <-chan struct{} { return a.done }

// Close ends the stack's part in the tunnel.
func (a *Attachment) Close() error { return a.conn.Close() }
