package bench

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/pion/ice/v2"
	"github.com/pion/stun"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// naiveVariable makes the test binary the program below: its value is the naiveConfig.
const naiveVariable = "WICE_BENCH_NAIVE"

// naiveConfig is what one end of a naive relay is told.
type naiveConfig struct {
	PrivateKey, PeerKey string // hexadecimal
	AllowedIP           string
	TURN                string // a URL without credentials
	Username, Password  string
	Controlling         bool
}

// naiveOffer is what the ends tell each other, as one line on standard output and input.
type naiveOffer struct {
	Ufrag, Pwd string
	Candidates []string
}

// startNaive runs at both ends what one writes who has a WireGuard and an ICE library and an afternoon: the baseline of relays. The
// harness carries the offers.
func startNaive(p *pair) {
	p.t.Helper()
	binary, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	var inputs [2]*os.File
	for i, e := range p.ends {
		other := p.ends[1-i]
		private, public := e.key, other.key.Public()
		config, err := json.Marshal(naiveConfig{
			PrivateKey: hex.EncodeToString(private[:]), PeerKey: hex.EncodeToString(public[:]), AllowedIP: other.addr.String() + "/32",
			TURN: fmt.Sprintf("turn:%s:%d?transport=%s", p.turn.Addr4, p.turn.Port, p.variant.kind.relay), Username: p.turn.Username, Password: p.turn.Password,
			Controlling: i == 0,
		})
		if err != nil {
			p.t.Fatal(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			p.t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		inputs[i] = w
		e.proc = startWithInput(p.t, e.host, r, []string{naiveVariable + "=" + string(config)}, binary)
	}
	line := func(e *end, prefix string) (text string) {
		until(p.t, e.proc.name+" prints "+prefix, func() error {
			for l := range strings.Lines(e.proc.out.String()) {
				if rest, ok := strings.CutPrefix(l, prefix+" "); ok && strings.HasSuffix(rest, "\n") {
					text = rest
					return nil
				}
			}
			return fmt.Errorf("it printed %q", &e.proc.out)
		})
		return text
	}
	for i, e := range p.ends {
		if _, err := inputs[1-i].WriteString(line(e, "offer")); err != nil {
			p.t.Fatal(err)
		}
	}
	for _, e := range p.ends {
		path := strings.Fields(line(e, "path"))
		e.address()
		e.path = func() (string, error) {
			for _, at := range path {
				if kind, addr, _ := strings.Cut(at, "="); kind != "relay" || netip.MustParseAddrPort(addr).Addr() != p.turn.Addr4 {
					return "", fmt.Errorf("%s: the path is %v, want the relay %v at both ends", e.host.Name, path, p.turn.Addr4)
				}
			}
			return strings.Join(path, " -> "), nil
		}
	}
}

// naive is the program. It ends with the process.
func naive(config string) error {
	var c naiveConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	iceConn, err := naiveConnect(c)
	if err != nil {
		return err
	}
	nic, err := tun.CreateTUN(iface, 1420)
	if err != nil {
		return err
	}
	dev := device.NewDevice(nic, &naiveBind{conn: iceConn}, device.NewLogger(device.LogLevelError, ""))
	if err := dev.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%s\nallowed_ip=%s\nendpoint=192.0.2.1:1\n", c.PrivateKey, c.PeerKey, c.AllowedIP)); err != nil {
		return err
	}
	if err := dev.Up(); err != nil {
		return err
	}
	fmt.Printf("path %s\n", naivePath(iceConn))
	<-dev.Wait()
	return nil
}

// naiveAgent is a connection that knows its agent.
type naiveAgent struct {
	*ice.Conn
	agent *ice.Agent
}

// naivePath returns the types and addresses of the selected pair.
func naivePath(c *naiveAgent) string {
	pair, err := c.agent.GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return fmt.Sprintf("none=%v", err)
	}
	of := func(c ice.Candidate) string {
		kind := c.Type().String()
		if kind == "prflx" {
			kind = "relay" // whether an end has heard of the other's candidate before its first check is chance: the address tells
		}
		return fmt.Sprintf("%s=%s", kind, netip.AddrPortFrom(netip.MustParseAddr(c.Address()), uint16(c.Port())))
	}
	return of(pair.Local) + " " + of(pair.Remote)
}

// naiveConnect exchanges offers through standard output and input.
func naiveConnect(c naiveConfig) (*naiveAgent, error) {
	uri, err := stun.ParseURI(c.TURN)
	if err != nil {
		return nil, err
	}
	uri.Username, uri.Password = c.Username, c.Password
	agent, err := ice.NewAgent(&ice.AgentConfig{
		Urls: []*stun.URI{uri}, CandidateTypes: []ice.CandidateType{ice.CandidateTypeRelay}, NetworkTypes: []ice.NetworkType{ice.NetworkTypeUDP4},
		MulticastDNSMode: ice.MulticastDNSModeDisabled,
	})
	if err != nil {
		return nil, err
	}
	var offer naiveOffer
	if offer.Ufrag, offer.Pwd, err = agent.GetLocalUserCredentials(); err != nil {
		return nil, err
	}
	gathered := make(chan struct{})
	if err := agent.OnCandidate(func(candidate ice.Candidate) {
		if candidate == nil {
			close(gathered)
			return
		}
		offer.Candidates = append(offer.Candidates, candidate.Marshal())
	}); err != nil {
		return nil, err
	}
	if err := agent.GatherCandidates(); err != nil {
		return nil, err
	}
	<-gathered
	text, err := json.Marshal(offer)
	if err != nil {
		return nil, err
	}
	fmt.Printf("offer %s\n", text)
	answer, err := bufio.NewReader(os.Stdin).ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	var remote naiveOffer
	if err := json.Unmarshal(answer, &remote); err != nil {
		return nil, err
	}
	for _, text := range remote.Candidates {
		candidate, err := ice.UnmarshalCandidate(text)
		if err != nil {
			return nil, err
		}
		if err := agent.AddRemoteCandidate(candidate); err != nil {
			return nil, err
		}
	}
	connect := agent.Accept
	if c.Controlling {
		connect = agent.Dial
	}
	iceConn, err := connect(context.Background(), remote.Ufrag, remote.Pwd)
	return &naiveAgent{iceConn, agent}, err
}

// naiveBind sends and receives one packet with each call, through one connection to one peer.
type naiveBind struct{ conn net.Conn }

// naiveEndpoint is the only one that there is.
type naiveEndpoint struct{}

var (
	_ conn.Bind     = (*naiveBind)(nil)
	_ conn.Endpoint = naiveEndpoint{}
)

func (b *naiveBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	return []conn.ReceiveFunc{func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		n, err := b.conn.Read(packets[0])
		if err != nil {
			return 0, net.ErrClosed
		}
		sizes[0], eps[0] = n, naiveEndpoint{}
		return 1, nil
	}}, port, nil
}

func (b *naiveBind) Send(bufs [][]byte, _ conn.Endpoint) error {
	for _, buf := range bufs {
		if _, err := b.conn.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

func (b *naiveBind) Close() error                                { return nil } // the connection lasts as long as the process
func (b *naiveBind) SetMark(uint32) error                        { return nil }
func (b *naiveBind) BatchSize() int                              { return 1 }
func (b *naiveBind) ParseEndpoint(string) (conn.Endpoint, error) { return naiveEndpoint{}, nil }

func (naiveEndpoint) ClearSrc()           {}
func (naiveEndpoint) SrcToString() string { return "" }
func (naiveEndpoint) DstToString() string { return "192.0.2.1:1" }
func (naiveEndpoint) DstToBytes() []byte  { return []byte{192, 0, 2, 1} }
func (naiveEndpoint) DstIP() netip.Addr   { return netip.AddrFrom4([4]byte{192, 0, 2, 1}) }
func (naiveEndpoint) SrcIP() netip.Addr   { return netip.Addr{} }
