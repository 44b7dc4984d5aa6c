package main

import (
	"errors"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/wice-go/wice-go/device/config"
)

// defaultSOCKS5 is where the verb proxy listens when nothing else is asked for.
const defaultSOCKS5 = "127.0.0.1:1080"

func newProxyCommand(a *app) *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "proxy IFACE|FILE.conf",
		Short: "Serve proxies into a tunnel, in the foreground and without root",
		Long: `Bring an interface up with the userspace stack, as "up --foreground --tun netstack" does, for programs that reach the tunnel through a
proxy. When neither the file nor a flag has a proxy or a forward, SOCKS5 is served on ` + defaultSOCKS5 + `.`,
		Example: `  wice-go proxy ./office.conf
  wice-go proxy wg0 --socks5 127.0.0.1:1080 --http-proxy 127.0.0.1:8080
  curl --socks5-hostname 127.0.0.1:1080 http://alice/`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, file, err := a.findConfig(args[0])
			if err != nil {
				return err
			}
			f.adjust = serveProxies
			cfg, err := a.loadConfig(file, f)
			if err != nil {
				return err
			}
			return a.runForeground(cmd.Context(), name, cfg, f)
		},
	}
	f.addTunnelFlags(cmd.Flags())
	return cmd
}

// serveProxies makes of a configuration what the verb proxy serves.
func serveProxies(i *config.Interface) error {
	i.Tun = config.TunNetstack
	if !i.SOCKS5.Off && i.SOCKS5.Listen == "" && i.HTTPProxy.Listen == "" && len(i.Forwards) == 0 {
		i.SOCKS5.Listen = defaultSOCKS5
	}
	if i.SOCKS5.Listen == "" && i.HTTPProxy.Listen == "" && len(i.Forwards) == 0 {
		return usageError(errors.New("there is nothing to serve: leave out --socks5 off, or add --http-proxy or --forward"))
	}
	return nil
}

// checkProxies says of the proxies what users may not have meant.
func (r *running) checkProxies() {
	i := &r.config().Interface
	for _, p := range []struct {
		key    string
		config config.Proxy
	}{{"SOCKS5", i.SOCKS5}, {"HTTPProxy", i.HTTPProxy}} {
		if p.config.Listen == "" {
			continue
		}
		if r.stack == nil {
			const why = "it is for the userspace stack; with a kernel TUN every program reaches the tunnel"
			r.log.Warn(p.key+" is left out: "+why, "listen", p.config.Listen)
			r.ready.say("%s = %s is left out: %s", p.key, p.config.Listen, why)
			continue
		}
		if at, err := netip.ParseAddrPort(p.config.Listen); err == nil && !at.Addr().IsLoopback() {
			why := "whoever reaches that address can use the tunnel"
			if p.config.User != "" {
				why = "user and password go over the network unencrypted"
			}
			r.log.Warn(p.key+" listens on more than loopback: "+why, "listen", p.config.Listen)
			r.ready.say("%s = %s is not on loopback: %s", p.key, p.config.Listen, why)
		}
	}
}
