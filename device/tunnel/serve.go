package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/tun/netstack"
)

// service is a forward or a proxy.
type service struct {
	what  any    // two with the same one are the same
	text  string // for messages, without the password
	start func() (io.Closer, error)
}

// services are those that the configuration asks for.
func (t *Tunnel) services(i *config.Interface) []service {
	var list []service
	for _, f := range i.Forwards {
		list = append(list, service{f, "Forward = " + f.String(), func() (io.Closer, error) { return t.stack.Forward(netstack.Forward(f), t.log) }})
	}
	for _, p := range []struct {
		key    string
		config config.Proxy
		serve  func(netstack.ProxyOptions) (*netstack.Proxy, error)
	}{
		{"SOCKS5", i.SOCKS5, t.stack.ServeSOCKS5},
		{"HTTPProxy", i.HTTPProxy, t.stack.ServeHTTPProxy},
	} {
		if p.config.Listen == "" {
			continue
		}
		list = append(list, service{[2]any{p.key, p.config}, p.key + " = " + p.config.Listen, func() (io.Closer, error) {
			proxy, err := p.serve(netstack.ProxyOptions{Listen: p.config.Listen, User: p.config.User, Password: p.config.Password, Logger: t.log})
			if err != nil {
				return nil, err
			}
			t.log.Info("proxy is up", "proxy", p.key, "listen", proxy.Addr())
			return proxy, nil
		}})
	}
	return list
}

// serve closes the forwards and proxies that the configuration does not ask for, and starts those that are missing. What it has started ends
// with Close, also when the rest fails.
func (t *Tunnel) serve(i *config.Interface) error {
	wanted := t.services(i)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return net.ErrClosed
	}
	keep := make(map[any]bool, len(wanted))
	for _, s := range wanted {
		keep[s.what] = true
	}
	for what, c := range t.serving {
		if !keep[what] {
			c.Close()
			delete(t.serving, what)
		}
	}
	var errs []error
	for _, s := range wanted {
		if t.serving[s.what] != nil {
			continue
		}
		c, err := s.start()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.text, err))
			continue
		}
		t.serving[s.what] = c
	}
	return errors.Join(errs...)
}
