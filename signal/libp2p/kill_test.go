package libp2p_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/libp2p"
	"github.com/wice-go/wice-go/signal/signaltest"
)

// helperEnv makes this test binary a peer: own private key, the other's public key, query. It publishes one envelope and then waits to
// be killed.
const helperEnv = "WICE_TEST_LIBP2P_PEER"

func helper(args string) int {
	var private, public, query string
	if _, err := fmt.Sscan(args, &private, &public, &query); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	own, err1 := key.ParsePrivate(private)
	other, err2 := key.ParsePublic(public)
	q, err3 := url.ParseQuery(query)
	if err1 != nil || err2 != nil || err3 != nil {
		fmt.Fprintln(os.Stderr, err1, err2, err3)
		return 1
	}
	r := signaltest.NewRecorder()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience) // if nobody kills it
	defer cancel()
	b, err := libp2p.New(ctx, signal.Env{Identity: own, Sink: r, ExcludeAddr: loopbackOnly}, []url.Values{q})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	b.SetPeers([]key.Public{other})
	for n := 0; ctx.Err() == nil; n++ {
		if b.Publish(ctx, other, fmt.Appendf(nil, "from %d", os.Getpid())) == nil {
			break
		}
		r.Wait(ctx, func(r *signaltest.Recorder) bool { return len(r.Available()) > n })
	}
	<-ctx.Done()
	return 0
}

// TestKilledPeerComesBack kills a peer's process without a chance to say goodbye and starts it again, which gives it other ports: it is
// heard again, and reached again, at once, although the old connection still seems to stand where the transport is QUIC.
func TestKilledPeerComesBack(t *testing.T) {
	for transport, listen := range map[string]string{"TCP": "/ip4/127.0.0.1/tcp/0", "QUIC": "/ip4/127.0.0.1/udp/0/quic-v1"} {
		t.Run(transport, func(t *testing.T) {
			query := url.Values{"listen": {listen}}
			a := newPeer(t, nil, url.Values{"listen": {listen}, "mdns": {"true"}})
			other := key.NewPrivate()
			a.SetPeers([]key.Public{other.Public()})
			for round := range 3 {
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), helperEnv+"="+other.Base64()+" "+a.public.String()+" "+query.Encode())
				cmd.Stderr = os.Stderr
				began := time.Now()
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				want := fmt.Sprintf("from %d", cmd.Process.Pid)
				a.wait(t, "an envelope from the new process", func(r *signaltest.Recorder) bool {
					for _, e := range r.Envelopes() {
						if string(e) == want {
							return true
						}
					}
					return false
				})
				heard := time.Since(began)
				if err := a.Publish(t.Context(), other.Public(), []byte("and back")); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
				t.Logf("round %d: heard after %v, reached after %v", round, heard, time.Since(began))
				cmd.Process.Kill()
				cmd.Wait()
			}
		})
	}
}
