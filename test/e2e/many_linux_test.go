package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/test/natlab"
)

// A hundred daemons, each of whose interfaces goes to a namespace of its own the moment that the command returns: none is lost.
func TestManyDropIns(t *testing.T) {
	const count, batch = 100, 25 // a batch is what one command of a test has time for
	w := newWorld(t, natlab.Config{LANOnly: true})
	n := w.node(w.lab.A[0]).quiet()
	before := n.snapshot()
	for first := 1; first <= count; first += batch {
		n.ok("sh", "-ec", fmt.Sprintf("for i in $(seq %d %d); do ip netns add many$i; done", first, first+batch-1))
	}
	start := time.Now()
	for first := 1; first <= count; first += batch {
		n.ok("sh", "-ec", fmt.Sprintf("for i in $(seq %d %d); do %s wg$i; ip link set wg$i netns many$i; done", first, first+batch-1, wiceGo()))
	}
	t.Logf("%d daemons in %v", count, time.Since(start).Round(ms))
	if pids := n.daemons(); len(pids) != count {
		t.Errorf("got %d daemons, want %d", len(pids), count)
	}

	keys := make([]key.Private, count+1)
	for first := 1; first <= count; first += batch {
		script := new(strings.Builder)
		for i := first; i < first+batch; i++ {
			keys[i] = key.NewPrivate()
			fmt.Fprintf(script, "echo %s | ip netns exec many%d wg set wg%[2]d private-key /dev/stdin listen-port %d\n", keys[i].Base64(), i, 20000+i)
			fmt.Fprintf(script, "[ $(ip netns exec many%d wg show wg%[1]d public-key) = %s ]\n", i, keys[i].Public())
		}
		n.ok("sh", "-exc", script.String())
	}
	for i := 1; i < count; i += 22 { // these do, and the one after each
		for me, other := range map[int]int{i: i + 1, i + 1: i} {
			n.ok("sh", "-exc", fmt.Sprintf(`in="ip netns exec many%d"
				$in wg set wg%[1]d peer %[2]s allowed-ips 10.99.1.%[3]d/32 endpoint 127.0.0.1:%[4]d
				$in ip addr add 10.99.1.%[1]d/24 dev wg%[1]d
				$in ip link set wg%[1]d up`, me, keys[other].Public(), other, 20000+other))
		}
		n.ok("ip", "netns", "exec", fmt.Sprintf("many%d", i), "ping", "-n", "-q", "-c", "1", "-w", "30", fmt.Sprintf("10.99.1.%d", i+1))
	}

	for first := 1; first <= count; first += batch {
		n.ok("sh", "-ec", fmt.Sprintf("for i in $(seq %d %d); do ip -n many$i link del wg$i; ip netns del many$i; done", first, first+batch-1))
	}
	n.gone(patience)
	n.asBefore(before, patience)
}
