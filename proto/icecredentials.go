package proto

import (
	"fmt"
	"slices"
	"time"

	"github.com/wice-go/wice-go/proto/pb"
)

// ICECredentials is what a rendezvous tells its clients: the STUN and TURN servers that they may use, and until when.
type ICECredentials struct {
	Servers []ICEServer
	Expires time.Time // in whole seconds; zero: never
}

// The values of pb.ICEScheme and pb.ICETransport; zero is none of them.
var (
	schemes    = [...]ICEScheme{1: STUN, 2: STUNS, 3: TURN, 4: TURNS}
	transports = [...]ICETransport{1: TransportUDP, 2: TransportTCP}
)

// Validate reports which field breaks which bound.
func (c *ICECredentials) Validate() error {
	if err := atMost("servers", len(c.Servers), MaxICEServers); err != nil {
		return err
	}
	for i, s := range c.Servers {
		if err := s.Validate(); err != nil {
			return fmt.Errorf("servers[%d]: %w", i, err)
		}
	}
	if !c.Expires.IsZero() && c.Expires.Unix() <= 0 {
		return fmt.Errorf("expires: %v is before 1970", c.Expires)
	}
	return nil
}

// Marshal returns the wire form. It fails if c is not valid.
func (c *ICECredentials) Marshal() ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("marshal ICE credentials: %w", err)
	}
	m := &pb.ICECredentials{}
	if !c.Expires.IsZero() {
		m.Expires = c.Expires.Unix()
	}
	for _, s := range c.Servers {
		m.Servers = append(m.Servers, &pb.ICEServer{
			Scheme:    pb.ICEScheme(slices.Index(schemes[:], s.Scheme)),
			Host:      s.Host,
			Port:      uint32(s.Port),
			Transport: pb.ICETransport(slices.Index(transports[:], s.Transport)),
			Username:  s.Username,
			Password:  s.Password,
		})
	}
	b, err := marshal(m, MaxICECredentialsSize)
	if err != nil {
		return nil, fmt.Errorf("marshal ICE credentials: %w", err)
	}
	return b, nil
}

// UnmarshalICECredentials reads the wire form. Servers with a scheme or transport that a newer rendezvous may know are left out;
// everything else that is not valid is an error.
func UnmarshalICECredentials(b []byte) (*ICECredentials, error) {
	c, err := unmarshalICECredentials(b)
	if err != nil {
		return nil, fmt.Errorf("unmarshal ICE credentials: %w", err)
	}
	return c, nil
}

func unmarshalICECredentials(b []byte) (*ICECredentials, error) {
	var m pb.ICECredentials
	if err := unmarshal(b, &m, MaxICECredentialsSize); err != nil {
		return nil, err
	}
	if err := atMost("servers", len(m.GetServers()), MaxICEServers); err != nil {
		return nil, err
	}
	c := &ICECredentials{}
	switch e := m.GetExpires(); {
	case e < 0 || e > maxUnix:
		return nil, fmt.Errorf("expires: %d, want 0 to %d", e, int64(maxUnix))
	case e > 0:
		c.Expires = time.Unix(e, 0)
	}
	for i, ms := range m.GetServers() {
		if ms.GetPort() > 0xffff {
			return nil, fmt.Errorf("servers[%d]: port %d, want at most 65535", i, ms.GetPort())
		}
		s := ICEServer{
			Scheme:    schemes[inRange(int32(ms.GetScheme()), len(schemes))],
			Host:      ms.GetHost(),
			Port:      uint16(ms.GetPort()),
			Transport: transports[inRange(int32(ms.GetTransport()), len(transports))],
			Username:  ms.GetUsername(),
			Password:  ms.GetPassword(),
		}
		if s.Scheme == "" || s.Transport == "" {
			continue
		}
		c.Servers = append(c.Servers, s)
	}
	return c, c.Validate()
}

// maxUnix is the end of the year 9999: later times can't be printed in the usual formats.
const maxUnix = 253402300799

// inRange turns what this version doesn't know into zero.
func inRange(n int32, size int) int32 {
	if n < 0 || int(n) >= size {
		return 0
	}
	return n
}
