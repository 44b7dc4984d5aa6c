package bind

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// TestOrder sends numbered packets of all sizes in batches of all sizes, from one goroutine over loopback, and looks at the order in which
// they are received: no worse than with the stock bind, and with ours as sent. The kernel may drop some.
func TestOrder(t *testing.T) {
	for family, f := range benchFamilies {
		for _, kind := range binds {
			if n := countInversions(t, f.name+" "+kind.name, kind.make, family, f.addr); n > 0 && kind.name == "wice" {
				t.Errorf("%s: %d packets were overtaken, want none", f.name, n)
			}
		}
	}
}

// stayOnProcessor binds the goroutine's thread, which ends with it, to one processor: each has a queue for loopback, and a packet in the
// next one's may overtake without anybody's fault.
func stayOnProcessor() error {
	runtime.LockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return err
	}
	i := 0
	for !all.IsSet(i) {
		i++
	}
	one.Set(i)
	return unix.SchedSetaffinity(0, &one)
}

func countInversions(t *testing.T, name string, open func() conn.Bind, family int, addr netip.Addr) (inversions int) {
	t.Helper()
	const batches = 200
	var fns [2][]conn.ReceiveFunc
	var ports [2]uint16
	var ends [2]conn.Bind
	for i := range ends {
		ends[i] = open()
		var err error
		if fns[i], ports[i], err = ends[i].Open(0); err != nil {
			t.Fatal(err)
		}
		defer ends[i].Close()
	}
	from, receive := ends[0], fns[1][family]
	ep, err := from.ParseEndpoint(netip.AddrPortFrom(addr, ports[1]).String())
	if err != nil {
		t.Fatal(err)
	}

	random := rand.New(rand.NewPCG(1, 2))
	plan := make([]int, batches)
	sent := 0
	for i := range plan {
		plan[i] = 1 + random.IntN(batchSize)
		sent += plan[i]
	}
	done := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		if err := stayOnProcessor(); err != nil {
			t.Error(err)
		}
		n := 0
		for _, count := range plan {
			size := 32 + random.IntN(1420)
			bufs := make([][]byte, count)
			for i := range bufs {
				switch random.IntN(8) {
				case 0: // ends a run of equal sizes
					size = 32 + random.IntN(size-31)
				case 1: // begins another one
					size = 32 + random.IntN(1420)
				}
				bufs[i] = transport(1<<16-1, uint32(n))[:size] // the stock bind gathers in what is behind
				n++
			}
			if err := from.Send(bufs, ep); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		// The last one is repeated until it arrives.
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			if err := from.Send([][]byte{transport(64, uint32(sent))}, ep); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	defer sending.Wait()
	defer close(done)

	bufs, sizes, eps := newBatch(ends[1].BatchSize())
	got, next := 0, uint32(0)
	for next <= uint32(sent) {
		n, err := receive(bufs, sizes, eps)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if sizes[i] == 0 {
				continue
			}
			got++
			switch k := number(bufs[i]); {
			case k >= next:
				next = k + 1
			case k != uint32(sent):
				inversions++
			}
		}
	}
	t.Logf("%s: received %d of %d packets, %d overtaken", name, got-1, sent, inversions)
	if got < sent/10 {
		t.Errorf("%s: received %d of %d packets: too few to tell anything", name, got, sent)
	}
	return inversions
}
