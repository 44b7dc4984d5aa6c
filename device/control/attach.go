package control

import (
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
	conn, _, err := takeOver(w, attachProtocol) // the client says nothing before the answer
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

// Attachment is the client's end of a network stack's part in the tunnel.
type Attachment struct {
	Network Network
	conn    net.Conn
	in      *json.Decoder
	done    chan struct{}
}

// Attach asks for a part in the tunnel. It must be closed.
func (c *Client) Attach(ctx context.Context) (*Attachment, error) {
	conn, in, err := c.upgraded(ctx, "/v1/attach", attachProtocol, struct{}{})
	if err != nil {
		return nil, err
	}
	a := &Attachment{conn: conn, in: json.NewDecoder(in), done: make(chan struct{})}
	if err := a.in.Decode(&a.Network); err != nil {
		return nil, errors.Join(fmt.Errorf("read the daemon's answer: %w", err), conn.Close())
	}
	return a, nil
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
