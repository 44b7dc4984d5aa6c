package main

import (
	"fmt"
	"net/netip"

	"github.com/wice-go/wice-go/tun/netstack"
)

// startProxies starts the proxies that are asked for.
func (r *running) startProxies() error {
	i := &r.cfg.Interface
	for _, p := range []struct {
		key, listen string
		serve       func(netstack.ProxyOptions) (*netstack.Proxy, error)
	}{
		{"SOCKS5", i.SOCKS5, r.stack.ServeSOCKS5},
		{"HTTPProxy", i.HTTPProxy, r.stack.ServeHTTPProxy},
	} {
		if p.listen == "" {
			continue
		}
		if r.stack == nil {
			const why = "it is for the userspace stack; with a kernel TUN every program reaches the tunnel"
			r.log.Warn(p.key+" is left out: "+why, "listen", p.listen)
			r.ready.say("%s = %s is left out: %s", p.key, p.listen, why)
			continue
		}
		if at, err := netip.ParseAddrPort(p.listen); err == nil && !at.Addr().IsLoopback() {
			const why = "whoever reaches that address can use the tunnel"
			r.log.Warn(p.key+" listens on more than loopback: "+why, "listen", p.listen)
			r.ready.say("%s = %s is not on loopback: %s", p.key, p.listen, why)
		}
		proxy, err := p.serve(netstack.ProxyOptions{Listen: p.listen, Logger: r.log})
		if err != nil {
			return fmt.Errorf("%s = %s: %w", p.key, p.listen, err)
		}
		r.later(proxy.Close)
		r.log.Info("proxy is up", "proxy", p.key, "listen", proxy.Addr())
	}
	return nil
}
