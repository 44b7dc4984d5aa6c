package tunnel

import (
	"fmt"
	"io"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/tun/netstack"
)

// serve starts the forwards and proxies of the configuration. What it has started ends with Close, also when the rest fails.
func (t *Tunnel) serve() error {
	i := &t.cfg.Interface
	for _, f := range i.Forwards {
		w, err := t.stack.Forward(netstack.Forward(f), t.log)
		if err != nil {
			return fmt.Errorf("Forward = %s: %w", f, err)
		}
		t.endWith(w)
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
		proxy, err := p.serve(netstack.ProxyOptions{Listen: p.config.Listen, User: p.config.User, Password: p.config.Password, Logger: t.log})
		if err != nil {
			return fmt.Errorf("%s = %s: %w", p.key, p.config.Listen, err)
		}
		t.endWith(proxy)
		t.log.Info("proxy is up", "proxy", p.key, "listen", proxy.Addr())
	}
	return nil
}

// endWith has Close close what was started.
func (t *Tunnel) endWith(c io.Closer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.serving = append(t.serving, c)
}
