package session

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/wice-go/wice-go/proto"
)

// A peer that names somebody else's addresses as its own makes us send there what the pacing allows, through a relay too.
func TestPacingThroughRelay(t *testing.T) {
	_, udp, tcp := newTURN(t)
	for name, server := range map[string]proto.ICEServer{"udp": udp, "tcp": tcp} {
		t.Run(name, func(t *testing.T) {
			victim, err := net.ListenUDP("udp4", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer victim.Close()
			port := uint16(victim.LocalAddr().(*net.UDPAddr).Port)
			ka, kb := keys()
			sent := make(chan *proto.Offer, 100)
			a := newSide(t, newWire(0), ka, kb, func(o *Options) {
				o.CandidateTypes = []proto.CandidateType{proto.Relay}
				o.ICEServers = func() []proto.ICEServer { return []proto.ICEServer{server} }
				o.Send = func(_ context.Context, o *proto.Offer) error { sent <- o; return nil }
			})
			a.s.Start()
			offer := proto.Offer{ID: sid(9), RID: (<-sent).ID, Ufrag: "ufrag", Pwd: "a password of enough length"}
			first := offer
			a.s.HandleOffer(&first)
			offer.Version = 1
			for i := range maxRemoteCandidates {
				offer.Candidates = append(offer.Candidates, proto.Candidate{
					Type: proto.ServerReflexive, Network: proto.UDP4, Component: 1, Priority: 1000,
					Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 2, byte(i + 1)}), port),
				})
			}
			began := time.Now()
			a.s.HandleOffer(&offer)

			b := make([]byte, 1500)
			if _, _, err := victim.ReadFrom(b); err != nil {
				t.Fatal(err)
			}
			victim.SetReadDeadline(time.Now().Add(time.Second))
			checks := 1
			for ; err == nil; checks++ {
				_, _, err = victim.ReadFrom(b)
			}
			watch := time.Since(began)
			if most := int(firstBurst) + int(watch/pacing) + 5; checks > most || checks < 10 {
				t.Errorf("%d checks in %v, want 10 to %d", checks, watch, most)
			} else {
				t.Logf("%d checks in %v", checks, watch)
			}
		})
	}
}
