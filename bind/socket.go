package bind

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
)

// socketBuffer is the size in bytes to ask for in each direction: what macOS grants at most, and about 50 ms at 1 Gbit/s.
const socketBuffer = 7 << 20

// maxPortTries limits the search for a port that is free in both families.
const maxPortTries = 100

// listenFunc opens the socket of one family; see listen.
type listenFunc func(network string, port uint16, mark uint32) (*socket, error)

// sockets are those of one opening of the bind. Either family may be missing, not both.
type sockets struct {
	v4, v6 *socket
	port   uint16
	closed chan struct{} // closed when the bind is
}

// listenConn opens a UDP socket on all addresses of one family ("udp4", "udp6"). The latter is IPv6-only.
func listenConn(network string, port uint16, mark uint32) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		return controlListener(network, c, mark)
	}}
	pc, err := lc.ListenPacket(context.Background(), network, ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

// listenBoth opens the sockets of both families on one port; 0 means any. A family that the host lacks is left out.
func listenBoth(listen listenFunc, port uint16, mark uint32) (*sockets, error) {
	for try := 1; ; try++ {
		s, err := listenOnce(listen, port, mark)
		if err == nil {
			return s, nil
		}
		if !errors.Is(err, errAddrInUse) && !errors.Is(err, errReserved) {
			return nil, err
		}
		if port != 0 {
			return nil, fmt.Errorf("listen on UDP port %d: another program has it; stop that one or choose another ListenPort: %w", port, err)
		}
		if try == maxPortTries {
			return nil, fmt.Errorf("listen on any UDP port: none of %d tries found one that is free for both IPv4 and IPv6: %w", try, err)
		}
	}
}

// listenOnce opens the IPv4 socket first and the IPv6 socket on the port that it got. The port of the result is that of a socket
// that exists, whichever of them is missing.
func listenOnce(listen listenFunc, port uint16, mark uint32) (*sockets, error) {
	s := &sockets{port: port, closed: make(chan struct{})}
	var err4, err6 error
	if s.v4, err4 = listen("udp4", port, mark); err4 == nil {
		s.port = s.v4.port()
	} else if !familyMissing(err4) {
		return nil, fmt.Errorf("listen on UDP port %d for IPv4: %w", port, err4)
	}
	if s.v6, err6 = listen("udp6", s.port, mark); err6 == nil {
		s.port = s.v6.port()
	} else if !familyMissing(err6) {
		s.close()
		return nil, fmt.Errorf("listen on UDP port %d for IPv6: %w", s.port, err6)
	}
	if s.v4 == nil && s.v6 == nil {
		return nil, fmt.Errorf("listen on UDP port %d: the host has neither IPv4 nor IPv6: %w", port, errors.Join(err4, err6))
	}
	return s, nil
}

// familyMissing reports whether the error means that the host has no addresses of that family.
func familyMissing(err error) bool {
	return errors.Is(err, errFamily) || errors.Is(err, errProtocol) || errors.Is(err, errAddrNotAvail)
}

// close closes both sockets and unblocks whoever receives.
func (s *sockets) close() error {
	close(s.closed)
	var errs [2]error
	for i, sock := range []*socket{s.v4, s.v6} {
		if sock != nil {
			errs[i] = sock.close()
		}
	}
	return errors.Join(errs[:]...)
}

// forAddr returns the socket that reaches the address, nil if the host lacks its family.
func (s *sockets) forAddr(a netip.Addr) *socket {
	if a.Is4() {
		return s.v4
	}
	return s.v6
}

// setMark marks what both sockets send.
func (s *sockets) setMark(mark uint32) error {
	for _, sock := range []*socket{s.v4, s.v6} {
		if sock == nil {
			continue
		}
		if err := markConn(sock.raw, mark); err != nil {
			return fmt.Errorf("mark packets of UDP port %d with %#x: %w", s.port, mark, err)
		}
	}
	return nil
}

func connPort(c *net.UDPConn) uint16 {
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// segmentationDisabled reports whether the environment forbids segmentation offload (UDP_SEGMENT, UDP_GRO), for kernels and
// drivers in which it is broken: WICE_UDP_OFFLOAD=off.
func segmentationDisabled() bool {
	switch os.Getenv("WICE_UDP_OFFLOAD") {
	case "off", "0", "false", "no":
		return true
	}
	return false
}
