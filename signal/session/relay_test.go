package session

import (
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v4"

	"github.com/wice-go/wice-go/proto"
)

// newTURN starts a TURN server on loopback that serves UDP and TCP on one port.
func newTURN(t *testing.T) (srv *turn.Server, udp, tcp proto.ICEServer) {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	relay := &turn.RelayAddressGeneratorStatic{RelayAddress: net.IPv4(127, 0, 0, 1), Address: "127.0.0.1"}
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	srv, err = turn.NewServer(turn.ServerConfig{
		Realm:         "test",
		LoggerFactory: quiet,
		AuthHandler: func(user, realm string, _ net.Addr) ([]byte, bool) {
			return turn.GenerateAuthKey(user, realm, "secret"), true
		},
		PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: pc, RelayAddressGenerator: relay}},
		ListenerConfigs:   []turn.ListenerConfig{{Listener: ln, RelayAddressGenerator: relay}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	udp = proto.ICEServer{Scheme: proto.TURN, Host: "127.0.0.1", Port: uint16(pc.LocalAddr().(*net.UDPAddr).Port),
		Transport: proto.TransportUDP, Username: "user", Password: "secret"}
	tcp = udp
	tcp.Transport, tcp.Port = proto.TransportTCP, uint16(ln.Addr().(*net.TCPAddr).Port)
	return srv, udp, tcp
}

func TestRelay(t *testing.T) {
	srv, udp, tcp := newTURN(t)
	for _, c := range []struct {
		name    string
		servers []proto.ICEServer
		want    string
		reason  string
	}{
		{"udp", []proto.ICEServer{udp}, "udp", "relayed: CandidateTypes permits relays alone"},
		{"tcp", []proto.ICEServer{tcp}, "tcp", "relayed over TCP: CandidateTypes permits relays alone"},
		{"both", []proto.ICEServer{tcp, udp}, "udp", "relayed: CandidateTypes permits relays alone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWire(0)
			ka, kb := keys()
			only := func(o *Options) {
				o.CandidateTypes = []proto.CandidateType{proto.Relay}
				o.ICEServers = func() []proto.ICEServer { return c.servers }
			}
			a, b := newSide(t, w, ka, kb, only), newSide(t, w, kb, ka, only)
			a.s.Start()
			pa, pb := a.path(0), b.path(0)
			transfer(t, pa, pb)
			transfer(t, pb, pa)
			if !pa.Relayed || pa.Direct || pa.RelayProtocol != c.want || pa.Local.Type != proto.Relay || pa.Base.Port() == 0 {
				t.Errorf("got %+v", pa)
			}
			for _, o := range append(w.sent(ka), w.sent(kb)...) {
				for _, cand := range o.Candidates {
					if cand.Type != proto.Relay || cand.RelatedAddress.IsValid() {
						t.Errorf("an offer gives away %+v", cand)
					}
				}
			}
			a.until(func(st Status) bool { return st.State == Connected && st.Reason == c.reason })
			a.close()
			b.close()
			for began := time.Now(); srv.AllocationCount() > 0; runtime.Gosched() {
				if time.Since(began) > patience {
					t.Fatalf("%d allocations were not given back", srv.AllocationCount())
				}
			}
		})
	}
}

// TestServersComeLate: a negotiation that can't succeed takes up a relay that is offered later.
func TestServersComeLate(t *testing.T) {
	_, udp, _ := newTURN(t)
	w := newWire(0)
	ka, kb := keys()
	var up atomic.Bool
	late := func(o *Options) {
		o.CandidateTypes = []proto.CandidateType{proto.Relay}
		o.ICEServers = func() []proto.ICEServer {
			if up.Load() {
				return []proto.ICEServer{udp}
			}
			return nil
		}
	}
	a, b := newSide(t, w, ka, kb, late), newSide(t, w, kb, ka, late)
	a.s.Start()
	a.until(func(st Status) bool { return strings.HasPrefix(st.Reason, "no candidates") })
	a.s.ICEServersChanged() // nothing new: no restart
	up.Store(true)
	a.s.ICEServersChanged()
	b.s.ICEServersChanged()
	transfer(t, a.path(0), b.path(0))
}
