package bench

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/wice-go/wice-go/test/program"
)

// startWice runs wice-go at both ends, which find each other by multicast DNS.
func startWice(p *pair) {
	lines := []string{"#!wice CandidateTypes = host"}
	if p.turn != nil {
		lines = []string{"#!wice CandidateTypes = relay",
			fmt.Sprintf("#!wice ICEServer = turn:%s:%s@%s:%d?transport=%s", p.turn.Username, p.turn.Password, p.turn.Addr4, p.turn.Port, p.variant.kind.relay)}
	}
	for i, e := range p.ends {
		e.wice(p, p.ends[1-i], lines, nil)
	}
}

// startMixed runs wice-go at the first end, and wireguard-go at the second.
func startMixed(p *pair) {
	a, b := p.ends[0], p.ends[1]
	b.plain(a)
	a.wice(p, b, nil, []string{"#!wice ICE = off", fmt.Sprintf("Endpoint = %s:%s", b.host.Addr4(), port)})
}

// wice runs wice-go with more lines of [Interface] and [Peer].
func (e *end) wice(p *pair, other *end, lines, peerLines []string) {
	e.t.Helper()
	binary, err := p.variant.build.file, error(nil)
	if binary == "" {
		binary, err = wiceGo()
	}
	if err != nil {
		e.t.Fatal(err)
	}
	lines = append([]string{"[Interface]", "PrivateKey = " + e.key.Base64(), "Address = " + e.addr.String() + "/24", "ListenPort = " + port, "MTU = " + mtu}, lines...)
	lines = append(lines, "[Peer]", "PublicKey = "+other.key.Public().String(), "AllowedIPs = "+other.addr.String()+"/32")
	file := e.write(iface+".conf", strings.Join(append(lines, peerLines...), "\n")+"\n")
	e.proc = start(e.t, e.host, []string{"WICE_RUNTIME_DIR=/run", "LOG_LEVEL=error"}, binary, "up", file, "--foreground", "--tun", "kernel")
	e.path = func() (string, error) {
		out, err := output(e.t, e.host, binary, "status", iface, "--json")
		if err != nil {
			return "", err
		}
		// Not read strictly: other builds may print more or less than this checkout's.
		var s program.Status
		if err := json.Unmarshal([]byte(out), &s); err != nil {
			return "", fmt.Errorf("%s: status --json: %w", e.host.Name, err)
		}
		peer, err := s.Find(other.key.Public())
		if err != nil {
			return "", err
		}
		if err := p.wanted(e, other, peer, len(peerLines) > 0); err != nil {
			return "", fmt.Errorf("%s: %v: %w", e.host.Name, peer, err)
		}
		return fmt.Sprintf("%s %s -> %s over %s", peer.Path.Kind, peer.Path.Local.Address, peer.Path.Remote.Address, peer.Path.Protocol), nil
	}
}

// wanted says what is wrong with a path.
func (p *pair) wanted(e, other *end, peer program.Peer, plain bool) error {
	state, kind, protocol := "connected", "direct", "udp"
	local, remote := e.host.Addr4(), other.host.Addr4()
	switch {
	case plain:
		state, kind = "plain", "plain"
	case p.turn != nil:
		kind, protocol = "relay", p.variant.kind.relay
		local, remote = p.turn.Addr4, p.turn.Addr4
	}
	if peer.State != state || peer.Path == nil || peer.Path.Kind != kind || peer.Path.Protocol != protocol {
		return fmt.Errorf("want it %s, by a path that is %s over %s", state, kind, protocol)
	}
	ends := map[string]netip.Addr{peer.Path.Remote.Address: remote}
	if !plain { // a plain peer's path has no local end
		ends[peer.Path.Local.Address] = local
	}
	for got, want := range ends {
		if at, err := netip.ParseAddrPort(got); err != nil || at.Addr() != want {
			return fmt.Errorf("want the end %q at %v", got, want)
		}
	}
	return nil
}
