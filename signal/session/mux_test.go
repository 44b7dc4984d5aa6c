package session

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/pion/ice/v2"
	"github.com/pion/stun"
	"golang.zx2c4.com/wireguard/conn"

	"github.com/wice-go/wice-go/bind"
	"github.com/wice-go/wice-go/proto"
)

// TestPacing: whatever the number of pairs, all are checked, and the sum keeps to RFC 8445.
func TestPacing(t *testing.T) {
	for _, n := range []int{1, 4, 5, 30, 100} {
		p, now := newPacer(), time.Unix(1_800_000_000, 0)
		counts := make([]int, n)
		total := 0
		const span = 20 * time.Second
		for range span / checkInterval {
			for i := range n {
				if p.allow(now, pair{remote: netip.AddrPortFrom(netip.IPv6Loopback(), uint16(i))}) {
					counts[i]++
					total++
				}
			}
			now = now.Add(checkInterval)
		}
		if limit := int(span/pacing) + int(firstBurst); total > limit {
			t.Errorf("%d pairs: %d checks, want at most %d", n, total, limit)
		}
		for i, c := range counts {
			if c < 2 {
				t.Errorf("%d pairs: number %d was checked %d times", n, i, c)
			}
		}
	}
}

// TestSTUNServerIsPatientlyAsked has a STUN server miss as many requests as a mux sends in a second.
func TestSTUNServerIsPatientlyAsked(t *testing.T) {
	b := bind.New(bind.Options{IncludeLoopback: true})
	receivers, _, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	var receiving sync.WaitGroup
	defer receiving.Wait()
	defer b.Shutdown()
	for _, receive := range receivers {
		receiving.Go(func() { receive([][]byte{make([]byte, 1500)}, make([]int, 1), make([]conn.Endpoint, 1)) }) // until the bind is closed
	}
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 1500)
		for n := 1; ; n++ {
			_, from, err := server.ReadFromUDP(buf)
			if err != nil {
				return
			}
			if n == 3 { // of those after 0, 0.5 and 1.5 s
				id := stun.NewTransactionIDSetter([stun.TransactionIDSize]byte(buf[8:20]))
				server.WriteToUDP(stun.MustBuild(id, stun.BindingSuccess, &stun.XORMappedAddress{IP: from.IP, Port: from.Port}).Raw, from)
			}
		}
	}()
	m := &agentMux{UniversalUDPMux: b.Mux(), ctx: t.Context()}
	if got, err := m.GetXORMappedAddr(server.LocalAddr(), 5*time.Second); err != nil {
		t.Errorf("got %v, %v, want the answer to the third request", got, err)
	}
}

func TestIsCheck(t *testing.T) {
	build := func(s ...stun.Setter) []byte { return stun.MustBuild(append(s, stun.Fingerprint)...).Raw }
	for _, c := range []struct {
		name string
		b    []byte
		want bool
	}{
		{"check", build(stun.TransactionID, stun.BindingRequest, stun.NewUsername("abc:defg")), true},
		{"nomination", build(stun.TransactionID, stun.BindingRequest, stun.NewUsername("abc:defgh"), ice.UseCandidate()), false},
		{"response", build(stun.TransactionID, stun.BindingSuccess), false},
		{"data", make([]byte, 100), false},
		{"empty", nil, false},
	} {
		if got := isCheck(c.b); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestTCP(t *testing.T) {
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	mux := ice.NewTCPMuxDefault(ice.TCPMuxParams{Listener: ln, Logger: logger{discard()}, ReadBufferSize: 8})
	defer mux.Close()
	w := newWire(0)
	ka, kb := keys()
	only := func(o *Options) { o.NetworkTypes = []proto.NetworkType{proto.TCP4} }
	a := newSide(t, w, ka, kb, func(o *Options) { only(o); o.TCPMux = mux })
	b := newSide(t, w, kb, ka, only)
	a.s.Start()
	pa, pb := a.path(0), b.path(0)
	if pa.Direct || pa.Relayed || pa.Network != proto.TCP4 {
		t.Errorf("got %+v", pa)
	}
	transfer(t, pa, pb)
	transfer(t, pb, pa)
	a.until(func(st Status) bool { return st.Reason == "UDP did not work: direct over TCP" })

	// A path that is not wanted any more is replaced, and one that is wanted stays.
	udp := []proto.NetworkType{proto.UDP4}
	b.s.SetNetworkTypes(nil) // UDP beside TCP, as it is
	a.s.SetNetworkTypes(udp)
	replaced := a.path(pa.Generation)
	if replaced.Network != proto.UDP4 || !replaced.Direct {
		t.Errorf("without TCP: got %+v", replaced)
	}
	b.path(pb.Generation)
	b.s.SetNetworkTypes(udp)
	b.until(func(st Status) bool { return st.State == Connected && st.Path.Generation == replaced.Generation })
}
