package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/wice-go/wice-go/test/program"
)

// startRendezvous runs wice-go's own server on the relay, and waits until it serves.
func startRendezvous(p *pair) *process {
	p.t.Helper()
	binary, err := p.binary()
	if err != nil {
		p.t.Fatal(err)
	}
	r := start(p.t, p.relay, []string{"LOG_LEVEL=error"}, binary, "rendezvous", "--state", p.t.TempDir(), "--allow-private")
	until(p.t, r.name, func() error {
		if r.ended() || len(signaling(r)) == 0 {
			return fmt.Errorf("it printed %s", &r.out)
		}
		return nil
	})
	return r
}

// signaling returns the lines that a rendezvous has printed for its clients.
func signaling(r *process) []string {
	var lines []string
	for line := range strings.Lines(r.out.String()) {
		if strings.HasPrefix(line, "#!wice Signaling") && strings.HasSuffix(line, "\n") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// binary is the build of wice-go that the variant wants.
func (p *pair) binary() (string, error) {
	if file := p.variant.build.file; file != "" {
		return file, nil
	}
	return wiceGo()
}

// startWice runs wice-go at both ends, which find each other by multicast DNS or the relay's own signaling.
func startWice(p *pair) {
	lines := []string{"#!wice CandidateTypes = host"}
	switch {
	case p.own != nil:
		lines = append(signaling(p.own), "#!wice CandidateTypes = relay", "#!wice NetworkTypes = udp4")
	case p.turn != nil:
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
	binary, err := p.binary()
	if err != nil {
		e.t.Fatal(err)
	}
	lines = append([]string{"[Interface]", "PrivateKey = " + e.key.Base64(), "Address = " + e.addr.String() + "/24", "ListenPort = " + port, "MTU = " + mtu}, lines...)
	tun := "kernel"
	if !p.interfaceAt(slices.Index(p.ends[:], e)) {
		tun = "netstack"
		lines = append(lines, "#!wice SOCKS5 = "+loopback.String()+":"+socksPort)
		for _, port := range []string{iperf3Port, streamPort} {
			lines = append(lines, fmt.Sprintf("#!wice Forward = tcp %s:%s -> %s:%s", loopback, port, other.addr, port))
		}
	}
	lines = append(lines, "[Peer]", "PublicKey = "+other.key.Public().String(), "AllowedIPs = "+other.addr.String()+"/32")
	text := strings.Join(append(lines, peerLines...), "\n") + "\n"
	e.user = p.variant.kind.user && e == p.ends[0]
	file := userDir + "/" + iface + ".conf"
	if e.user {
		e.writeForUser(file, text)
	} else {
		file = e.write(iface+".conf", text)
	}
	argv := e.as(binary, "up", file, "--foreground", "--tun", tun)
	e.proc = start(e.t, e.host, []string{"LOG_LEVEL=error"}, argv[0], argv[1:]...)
	want := p.way(e, other, len(peerLines) > 0)
	e.path = func() (string, error) {
		argv := e.as(binary, "status", iface, "--json")
		out, err := output(e.t, e.host, argv[0], argv[1:]...)
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
		if err := want.check(peer); err != nil {
			return "", fmt.Errorf("%s: %w", e.host.Name, err)
		}
		return fmt.Sprintf("%s %s -> %s over %s", peer.Path.Kind, peer.Path.Local.Address, peer.Path.Remote.Address, peer.Path.Protocol), nil
	}
}

const (
	// nobody is the ordinary user, and userDir a directory of theirs on every host.
	nobody  = 65534
	userDir = "/run/nobody"
)

// writeForUser makes a file in userDir.
func (e *end) writeForUser(file, text string) {
	e.t.Helper()
	outside, err := e.host.Path(file)
	if err != nil {
		e.t.Fatal(err)
	}
	dir := filepath.Dir(outside)
	for _, err := range []error{os.Mkdir(dir, 0o700), os.Chown(dir, nobody, nobody), os.WriteFile(outside, []byte(text), 0o600), os.Chown(outside, nobody, nobody)} {
		if err != nil {
			e.t.Fatal(err)
		}
	}
}

// as is the command line of one of wice-go's, run by the end's user.
func (e *end) as(argv ...string) []string {
	if !e.user {
		return append([]string{"env", "WICE_RUNTIME_DIR=/run"}, argv...)
	}
	id := strconv.Itoa(nobody)
	return append([]string{"env", "WICE_RUNTIME_DIR=" + userDir, "setpriv", "--reuid", id, "--regid", id, "--clear-groups"}, argv...)
}

// way is how packets from one end to the other have to travel.
func (p *pair) way(e, other *end, plain bool) way {
	switch {
	case plain:
		return way{state: "plain", kind: "plain", protocol: "udp", remote: other.host.Addr4()}
	case p.relay != nil:
		return way{state: "connected", kind: "relay", protocol: p.variant.kind.relay, local: p.relay.Addr4(), remote: p.relay.Addr4()}
	}
	return way{state: "connected", kind: "direct", protocol: "udp", local: e.host.Addr4(), remote: other.host.Addr4()}
}
