package control

import (
	"net"
	"sync"
)

// connKey is the key of the [limitedConn] in the context of a request.
type connKey struct{}

// limitListener accepts a connection once fewer than a number of them are open that count.
type limitListener struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func limit(l net.Listener, most int) *limitListener {
	return &limitListener{Listener: l, slots: make(chan struct{}, most), closed: make(chan struct{})}
}

// Accept waits for a slot and a connection.
func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{Conn: c, l: l}, nil
}

// Close stops listening. It is idempotent.
func (l *limitListener) Close() error {
	err := l.Listener.Close()
	l.once.Do(func() { close(l.closed) })
	return err
}

// limitedConn counts until it is closed or freed.
type limitedConn struct {
	net.Conn
	l    *limitListener
	once sync.Once
}

// free gives the slot back, for a connection that others count.
func (c *limitedConn) free() { c.once.Do(func() { <-c.l.slots }) }

func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.free()
	return err
}
