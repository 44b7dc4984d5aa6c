package rendezvous

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// limitedListener bounds the TCP connections to the TURN server, and closes silent ones: anyone can open them.
type limitedListener struct {
	net.Listener
	total, perIP int
	idle         time.Duration

	// mu guards all following.
	mu    sync.Mutex
	conns int
	byIP  map[netip.Addr]int
}

func limitListener(l net.Listener, limits Limits) *limitedListener {
	return &limitedListener{
		Listener: l, total: limits.TURNConns, perIP: limits.TURNConnsPerIP, idle: limits.TURNIdle,
		byIP: map[netip.Addr]int{},
	}
}

// Accept returns the next connection that is within the limits; others are closed at once.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		ip := addrPort(c.RemoteAddr()).Addr()
		if !l.admit(ip) {
			c.Close()
			continue
		}
		return &limitedConn{Conn: c, idle: l.idle, done: sync.OnceFunc(func() { l.release(ip) })}, nil
	}
}

func (l *limitedListener) admit(ip netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns >= l.total || l.byIP[ip] >= l.perIP {
		return false
	}
	l.conns++
	l.byIP[ip]++
	return true
}

func (l *limitedListener) release(ip netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns--
	if l.byIP[ip]--; l.byIP[ip] == 0 {
		delete(l.byIP, ip)
	}
}

type limitedConn struct {
	net.Conn
	idle time.Duration
	done func()
}

// Read fails when nothing comes for the idle time.
func (c *limitedConn) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.idle)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// Write does not wait for a client that reads nothing: its packets come from the relay socket's reader, which would wait too.
func (c *limitedConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	if err != nil {
		c.Close() // half a packet may be out: the framing is lost
	}
	return n, err
}

func (c *limitedConn) Close() error {
	c.done()
	return c.Conn.Close()
}

// writeTimeout is how long a TCP client may leave its receive window closed.
const writeTimeout = 10 * time.Second

// addrPort returns the address of a UDP or TCP end, unmapped.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		ap = a.AddrPort()
	case *net.TCPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
