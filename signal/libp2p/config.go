package libp2p

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// Config is what all the lines of this backend say together.
type Config struct {
	Bootstraps []peer.AddrInfo // one for each rendezvous, with all its addresses
	Listen     []ma.Multiaddr  // empty: ephemeral ports on all addresses
	MDNS       bool            // find peers on the local network
	DHT        bool            // ask the rendezvous servers, and servers that they name, for peers
}

// maxBootstraps bounds the connections that the lines can ask for; two or three rendezvous servers are plenty.
const maxBootstraps = 32

// ParseConfig adds up the queries of all lines. Keys: bootstrap (multiaddr with /p2p/ID, repeatable), listen (multiaddr,
// repeatable), mdns and dht (true or false; default true). Anything else is an error that names it.
func ParseConfig(queries []url.Values) (Config, error) {
	c := Config{MDNS: true, DHT: true}
	var bootstraps []ma.Multiaddr
	var errs []error
	for _, q := range queries {
		for _, name := range sortedKeys(q) {
			for _, value := range q[name] {
				var err error
				switch name {
				case "bootstrap":
					var a ma.Multiaddr
					if a, err = parseBootstrap(value); err == nil {
						bootstraps = append(bootstraps, a)
					}
				case "listen":
					var a ma.Multiaddr
					if a, err = parseListen(value); err == nil {
						c.Listen = append(c.Listen, a)
					}
				case "mdns":
					c.MDNS, err = parseBool(value)
				case "dht":
					c.DHT, err = parseBool(value)
				default:
					err = errors.New("unknown key: want bootstrap, listen, mdns or dht")
				}
				if err != nil {
					errs = append(errs, fmt.Errorf("%s=%s: %w", name, value, err))
				}
			}
		}
	}
	infos, err := peer.AddrInfosFromP2pAddrs(bootstraps...)
	if err != nil {
		errs = append(errs, err)
	}
	if len(infos) > maxBootstraps {
		errs = append(errs, fmt.Errorf("%d bootstraps, at most %d are possible", len(infos), maxBootstraps))
	}
	// In the order of the lines, so that status and logs have it too.
	slices.SortStableFunc(infos, func(a, b peer.AddrInfo) int { return place(bootstraps, a.ID) - place(bootstraps, b.ID) })
	c.Bootstraps = infos
	return c, errors.Join(errs...)
}

func place(addrs []ma.Multiaddr, id peer.ID) int {
	return slices.IndexFunc(addrs, func(a ma.Multiaddr) bool {
		_, got := peer.SplitAddr(a)
		return got == id
	})
}

func parseBootstrap(s string) (ma.Multiaddr, error) {
	a, err := ma.NewMultiaddr(s)
	if err != nil {
		return nil, err
	}
	if _, err := a.ValueForProtocol(ma.P_CIRCUIT); err == nil {
		return nil, errors.New("a bootstrap can't be behind a relay")
	}
	transport, id := peer.SplitAddr(a)
	if id == "" {
		return nil, errors.New("the server's identity is missing: want .../p2p/12D3..., as \"wice-go rendezvous\" prints it")
	}
	if len(transport) == 0 {
		return nil, errors.New("the server's address is missing: want /ip4/.../tcp/.../p2p/..., as \"wice-go rendezvous\" prints it")
	}
	return a, nil
}

func parseListen(s string) (ma.Multiaddr, error) {
	a, err := ma.NewMultiaddr(s)
	if err != nil {
		return nil, err
	}
	if first, _ := ma.SplitFirst(a); first == nil || first.Protocol().Code != ma.P_IP4 && first.Protocol().Code != ma.P_IP6 {
		return nil, errors.New("want /ip4/.../tcp/PORT or /ip4/.../udp/PORT/quic-v1, or the same with /ip6/")
	}
	_, tcpErr := a.ValueForProtocol(ma.P_TCP)
	_, quicErr := a.ValueForProtocol(ma.P_QUIC_V1)
	if (tcpErr == nil) == (quicErr == nil) {
		return nil, errors.New("want a TCP port, or a UDP port with /quic-v1")
	}
	return a, nil
}

func parseBool(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, errors.New("want true or false")
	}
	return b, nil
}

func sortedKeys(q url.Values) []string {
	names := make([]string, 0, len(q))
	for name := range q {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
