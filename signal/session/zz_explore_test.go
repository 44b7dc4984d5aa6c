package session

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sort"
	"strconv"
	"sync"
	"testing"
	"time"
)

func exploreOne(seed uint64, trace bool) (d time.Duration, ok bool, w *sim) {
	r := rand.New(rand.NewPCG(seed, 99))
	pick := func(xs ...int) int { return xs[r.IntN(len(xs))] }
	w = newSim(seed, func(format string, args ...any) { panic(fmt.Sprintf(format, args...)) })
	w.loss = []float64{0, 0.1, 0.3, 0.7}[r.IntN(4)]
	w.delay = time.Duration(pick(0, 50, 500, 8000)) * time.Millisecond
	w.relayed = r.IntN(2) == 0
	w.step(r.IntN(2), Start{})
	maxEv := 13
	if r.IntN(4) == 0 {
		maxEv = 80
	}
	for range r.IntN(maxEv) {
		w.run(w.now.Add(time.Duration(pick(0, 1, 10, 100, 400, 1000, 5000, 30000))*time.Millisecond), nil)
		w.apply(chaos(r.IntN(int(chaosKinds))), r.IntN(2))
	}
	w.note("--- trouble ends")
	w.loss, w.delay, w.cut, w.dataCut, w.relayed = 0, 100*time.Millisecond, false, false, false
	if os.Getenv("DRAIN") != "" { // what is under way is lost
		w.flying = nil
	}
	w.step(0, Start{})
	w.step(1, Start{})
	w.step(0, PeerAvailable{})
	w.step(1, PeerAvailable{})
	began := w.now
	ok = w.run(w.now.Add(3*time.Minute), w.converged)
	return w.now.Sub(began), ok, w
}

func TestExplore(t *testing.T) {
	if s := os.Getenv("ONE"); s != "" {
		seed, _ := strconv.ParseUint(s, 10, 64)
		d, ok, w := exploreOne(seed, true)
		t.Logf("%v %v\n%s", d, ok, w.trace())
		return
	}
	n, _ := strconv.Atoi(os.Getenv("N"))
	base, _ := strconv.ParseUint(os.Getenv("BASE"), 10, 64)
	type res struct {
		d    time.Duration
		seed uint64
	}
	var mu sync.Mutex
	var all []res
	var wg sync.WaitGroup
	for k := range 2 {
		wg.Go(func() {
			for i := k; i < n; i += 2 {
				d, ok, _ := exploreOne(base+uint64(i), false)
				if !ok {
					t.Errorf("seed %d: never", base+uint64(i))
				}
				mu.Lock()
				all = append(all, res{d, base + uint64(i)})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	sort.Slice(all, func(i, j int) bool { return all[i].d < all[j].d })
	for _, q := range []float64{0.5, 0.9, 0.99, 0.999, 0.9999} {
		t.Logf("%v: %v", q, all[int(q*float64(n))].d)
	}
	for _, a := range all[max(0, n-25):] {
		t.Logf("%v seed %d", a.d, a.seed)
	}
	for _, lim := range []int{2, 4, 6, 8, 10, 12, 15} {
		c := 0
		for _, a := range all {
			if a.d > time.Duration(lim)*time.Second {
				c++
			}
		}
		t.Logf("> %ds: %d", lim, c)
	}
}
