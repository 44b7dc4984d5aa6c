package tunnel_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/device/tunnel"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/inproc"
)

// bus stands for what the two sides of an example find each other by. Elsewhere they are two programs, and have a line for that which
// "wice-go rendezvous" has printed, or none on a local network: then Backends, IncludeLoopback and the Signaling line are left out.
var bus inproc.Bus

// open makes the tunnel of one side: a wg-quick file tells it of the other.
func open(private key.Private, address, peer string, public key.Public, peerAddress string) (*tunnel.Tunnel, error) {
	cfg, err := config.Parse("", strings.NewReader(fmt.Sprintf(`
[Interface]
PrivateKey = %s
Address = %s/24
#!wice Signaling = inproc

[Peer]
#!wice Name = %s
PublicKey = %s
AllowedIPs = %s/32
`, private.Base64(), address, peer, public, peerAddress)))
	if err != nil {
		return nil, err
	}
	return tunnel.Open(tunnel.Options{
		Config:          cfg,
		Backends:        map[string]signal.Factory{"inproc": bus.New},
		IncludeLoopback: true,
		Logger:          slog.New(slog.DiscardHandler),
	})
}

// A web server on one tunnel, and its client on another.
func ExampleOpen() {
	alice, bob := key.NewPrivate(), key.NewPrivate()

	b, err := open(bob, "10.0.0.2", "alice", alice.Public(), "10.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	listener, err := b.Listen("tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "Hello from inside the tunnel.")
	}))

	a, err := open(alice, "10.0.0.1", "bob", bob.Public(), "10.0.0.2")
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	reply, err := a.HTTPClient().Get("http://bob/")
	if err != nil {
		log.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(reply.Status)
	fmt.Println(string(text))
	// Output:
	// 200 OK
	// Hello from inside the tunnel.
}

// A connection from one tunnel to another. Both sides wait until there is a path.
func ExampleTunnel_DialContext() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	alice, bob := key.NewPrivate(), key.NewPrivate()

	b, err := open(bob, "10.0.0.2", "alice", alice.Public(), "10.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	a, err := open(alice, "10.0.0.1", "bob", bob.Public(), "10.0.0.2")
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	if err := a.Wait(ctx); err != nil {
		log.Fatal(err) // names each peer that is not connected, and the reason
	}
	status, err := a.Status()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(status.Peers[0].Name, "is", status.Peers[0].State, "on a path of kind", status.Peers[0].Path.Kind)

	listener, err := b.Listen("tcp", ":7")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, c)
	}()
	c, err := a.DialContext(ctx, "tcp", "bob:7")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "echo")
	buf := make([]byte, 4)
	if _, err := io.ReadFull(c, buf); err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(buf), "from", c.RemoteAddr())
	// Output:
	// bob is connected on a path of kind direct
	// echo from 10.0.0.2:7
}
