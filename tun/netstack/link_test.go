package netstack

import (
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// TestLinkPace checks that who sends waits while much is queued, until it is read, or for as long as nobody reads at most.
func TestLinkPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(1420)
		fill := func() {
			for range pacedBytes/60000 + 1 {
				var packets stack.PacketBufferList
				packets.PushBack(packetOf(1, 60000))
				if _, err := l.WritePackets(packets); err != nil {
					t.Fatal(err)
				}
				packets.DecRef()
			}
		}
		drain := func() {
			for n := -1; n != 0; {
				taken, err := l.take(nil, false)
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range taken {
					p.DecRef()
				}
				n = len(taken)
			}
		}
		begin := time.Now()
		l.pace()
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("with an empty queue it waited for %v", waited)
		}
		fill()
		l.pace()
		if waited := time.Since(begin); waited != maxPace {
			t.Errorf("it waited for %v though nobody reads, want %v", waited, maxPace)
		}
		begin = time.Now()
		var waited [2]time.Duration
		for i := range waited {
			go func() {
				l.pace()
				waited[i] = time.Since(begin)
			}()
		}
		synctest.Wait()
		drain()
		synctest.Wait()
		l.Close()
		if waited != [2]time.Duration{} {
			t.Errorf("the queue is read, and two waited for %v", waited)
		}
	})
}
