package signal_test

import (
	"context"
	"fmt"
	"log"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/inproc"
)

// Two routers that know each other exchange an offer through a bus.
func ExampleRouter() {
	bus := new(inproc.Bus)
	ctx := context.Background()
	alice, bob := key.NewPrivate(), key.NewPrivate()
	heard := make(chan *proto.Offer, 1)

	join := func(identity key.Private, peer key.Public, onOffer func(key.Public, *proto.Offer)) *signal.Router {
		r := signal.NewRouter(signal.RouterOptions{Identity: identity, OnOffer: onOffer})
		b, err := bus.New(ctx, signal.Env{Identity: identity, Sink: r}, nil)
		if err != nil {
			log.Fatal(err)
		}
		r.Add(b)
		r.SetPeers([]key.Public{peer})
		return r
	}
	a := join(alice, bob.Public(), nil)
	defer a.Close()
	b := join(bob, alice.Public(), func(_ key.Public, o *proto.Offer) { heard <- o })
	defer b.Close()

	if err := a.Send(ctx, bob.Public(), &proto.Offer{ID: proto.SessionID{0xab}}); err != nil {
		log.Fatal(err)
	}
	o := <-heard
	fmt.Println(o.ID, o.Version)
	// Output: ab00000000000000 0
}
