package netstack

import (
	"context"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	// maxProxied is how many connections one proxy carries at a time; more wait in the listener's queue. A browser has a few hundred.
	maxProxied = 4096

	// maxAssociations is how many of them carry datagrams: each has buffers of up to 192 KiB.
	maxAssociations = 256

	// greetingTimeout bounds the time until a client has said what it wants, however slowly it sends.
	greetingTimeout = 10 * time.Second

	// proxyDialTimeout bounds the look-up and the connection together: less than clients wait, so that they learn the reason.
	proxyDialTimeout = 10 * time.Second
)

// ProxyOptions says where a proxy listens, and for whom.
type ProxyOptions struct {
	Listen   string       // required: host:port of this machine
	User     string       // "": everyone who can connect
	Password string       // of the user
	Logger   *slog.Logger // nil: silent

	greeting time.Duration // 0: greetingTimeout
	request  time.Duration // 0: requestTimeout
}

// allows reports whether a user with that password may use the proxy, in a time that doesn't tell how much of it was right.
func (o *ProxyOptions) allows(user, password string) bool {
	return subtle.ConstantTimeCompare([]byte(user), []byte(o.User))&subtle.ConstantTimeCompare([]byte(password), []byte(o.Password)) == 1
}

// Proxy leads connections of this machine's programs into the tunnel.
type Proxy struct {
	// Constant after start.
	opts     ProxyOptions
	stack    *Stack
	log      *slog.Logger
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc

	slots        chan struct{} // one for each connection
	associations chan struct{} // one for each of those that carry datagrams
	tasks        sync.WaitGroup

	mu    sync.Mutex // guards the following
	conns map[*proxyConn]struct{}
}

// listenProxy listens. What it returns has to be started.
func (s *Stack) listenProxy(kind string, o ProxyOptions) (*Proxy, error) {
	if o.greeting == 0 {
		o.greeting = greetingTimeout
	}
	if o.request == 0 {
		o.request = requestTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("%s proxy: %w", kind, err)
	}
	p := &Proxy{
		opts: o, stack: s, log: o.Logger.With("proxy", kind), listener: l,
		slots: make(chan struct{}, maxProxied), associations: make(chan struct{}, maxAssociations), conns: make(map[*proxyConn]struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(s.ctx)
	return p, nil
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() net.Addr { return p.listener.Addr() }

// start serves until the proxy or the stack is closed. Then serve is told by the listener, and the clients are by a reset.
func (p *Proxy) start(serve, closing func()) {
	p.tasks.Go(serve)
	p.tasks.Go(func() {
		<-p.ctx.Done()
		p.listener.Close()
		p.mu.Lock()
		for c := range p.conns {
			c.SetLinger(0) // a reset, lest the client takes half of the data for all of it
			c.TCPConn.Close()
		}
		p.mu.Unlock()
		closing()
	})
}

// Close ends the proxy and its connections, and waits for them. It is idempotent.
func (p *Proxy) Close() error {
	p.cancel()
	p.tasks.Wait()
	return nil
}

// dial connects to an address that a client has given.
func (p *Proxy) dial(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, proxyDialTimeout)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	c, err := p.stack.DialPromptly(ctx, "tcp", address)
	if err != nil {
		p.log.Debug("proxy: not connected", "err", err)
	}
	return c, err
}

// proxyConn is a connection of a client, which has a slot until it is closed.
type proxyConn struct {
	*net.TCPConn
	p    *Proxy
	once sync.Once
}

func (c *proxyConn) Close() error {
	err := c.TCPConn.Close()
	c.once.Do(func() {
		c.p.mu.Lock()
		delete(c.p.conns, c)
		c.p.mu.Unlock()
		<-c.p.slots
		c.p.tasks.Done()
	})
	return err
}

// accept takes the next client once there is a slot for it, and returns nil when the proxy is closed.
func (p *Proxy) accept() *proxyConn {
	select {
	case p.slots <- struct{}{}:
	case <-p.ctx.Done():
		return nil
	}
	var failing pause
	for {
		c, err := p.listener.Accept()
		if err != nil {
			if !failing.wait(p.ctx, err) {
				<-p.slots
				return nil
			}
			if failing.first() {
				p.log.Warn("proxy: accept failed, trying again", "err", err)
			}
			continue
		}
		client := &proxyConn{TCPConn: c.(*net.TCPConn), p: p}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.ctx.Err() != nil {
			c.Close()
			<-p.slots
			return nil
		}
		p.tasks.Add(1)
		p.conns[client] = struct{}{}
		return client
	}
}
