package bench

import (
	"fmt"
	"strings"
)

// startPlain runs wireguard-go at both ends.
func startPlain(p *pair) {
	a, b := p.ends[0], p.ends[1]
	a.plain(b)
	b.plain(a)
}

// plain runs wireguard-go, set up by wg and ip alone.
func (e *end) plain(other *end) {
	e.t.Helper()
	file, err := wireguardGo()
	if err != nil {
		e.t.Fatal(err)
	}
	e.proc = start(e.t, e.host, []string{"LOG_LEVEL=error"}, file, "-f", iface)
	endpoint := fmt.Sprintf("%s:%s", other.host.Addr4(), port)
	until(e.t, e.proc.name, func() error {
		_, err := output(e.t, e.host, "wg", "set", iface, "listen-port", port, "private-key", e.write("private", e.key.Base64()),
			"peer", other.key.Public().String(), "endpoint", endpoint, "allowed-ips", other.addr.String()+"/32")
		return err
	})
	e.address()
	e.path = func() (string, error) {
		out, err := output(e.t, e.host, "wg", "show", iface, "endpoints")
		if err != nil {
			return "", err
		}
		if got, want := strings.TrimSpace(out), other.key.Public().String()+"\t"+endpoint; got != want {
			return "", fmt.Errorf("%s: wg shows %q, want %q", e.host.Name, got, want)
		}
		return "plain " + endpoint, nil
	}
}

// address sets the interface up as wg-quick would.
func (e *end) address() {
	e.t.Helper()
	must(e.t, e.host, "ip", "address", "add", e.addr.String()+"/24", "dev", iface)
	must(e.t, e.host, "ip", "link", "set", iface, "mtu", mtu, "up")
}
