package pmtu

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

const (
	full     = 1420 + dataOverhead
	header4  = 28
	header6  = 48
	ethernet = 1500
)

// path is a simulated one, with a machine at one end and something that answers at the other.
type path struct {
	t   *testing.T
	m   *Machine
	now time.Time

	overhead int
	mtu      int           // of its narrowest link
	local    int           // that this host knows of; 0: none
	rtt      time.Duration // of a datagram that comes through
	loss     float64       // each way together
	dead     bool
	rand     *rand.Rand

	answers []answer // on their way
	sent    int      // bytes
	probes  int
}

type answer struct {
	at time.Time
	p  Probe
}

func newPath(t *testing.T, mtu, overhead int) *path {
	return &path{t: t, m: New(full, overhead), now: time.Unix(1e9, 0), overhead: overhead, mtu: mtu, rtt: 20 * time.Millisecond, rand: rand.New(rand.NewPCG(1, 2))}
}

func (p *path) step(ev Event) {
	for _, probe := range p.m.Step(p.now, ev) {
		p.probes++
		if p.local > 0 && probe.Size+p.overhead > p.local {
			p.step(TooBig{probe})
			continue
		}
		p.sent += probe.Size
		if probe.Size+p.overhead > p.mtu || p.dead || p.rand.Float64() < p.loss {
			continue
		}
		p.answers = append(p.answers, answer{p.now.Add(p.rtt), probe})
	}
}

// run lets time pass until the machine watches; large says whether there is always something large to send.
func (p *path) run(d time.Duration, large bool) {
	for end := p.now.Add(d); ; {
		if p.m.Watching() && large {
			p.step(Large{})
			continue
		}
		next, i := p.m.Next(), -1
		for j, a := range p.answers {
			if next.IsZero() || a.at.Before(next) {
				next, i = a.at, j
			}
		}
		if next.IsZero() || next.After(end) {
			p.now = end
			return
		}
		if next.After(p.now) {
			p.now = next
		}
		if i < 0 {
			p.step(Tick{})
			continue
		}
		a := p.answers[i]
		p.answers = append(p.answers[:i], p.answers[i+1:]...)
		p.step(Answered{a.p})
	}
}

func (p *path) want(size int) {
	p.t.Helper()
	if got := p.m.Size(); got != size || p.m.Limited() != (size > 0 && size < full) {
		p.t.Errorf("got size %d, limited %v, want %d", got, p.m.Limited(), size)
	}
}

// The size found is the largest that the path carries, as far as it matters.
func TestSearch(t *testing.T) {
	for _, tt := range []struct{ mtu, overhead, want int }{
		{ethernet, header4, full},
		{ethernet, header6, full},
		{9000, header4, full},
		{1499, header6, 1444},
		{1492, header6, 1444},
		{1492, header4, full},
		{1400, header4, 1372},
		{1280, header4, 1252},
		{1280, header6, 1232},
		{1100, header4, 1072 - (1072-dataOverhead)%dataUnit},
		{576, header4, 544},
	} {
		t.Run(fmt.Sprintf("%d-%d", tt.mtu, tt.overhead), func(t *testing.T) {
			p := newPath(t, tt.mtu, tt.overhead)
			p.step(Start{})
			p.run(3*time.Second, false)
			p.want(tt.want)
			if tt.want == full && p.probes > 2 {
				t.Errorf("%d probes on a path without limits, want 2", p.probes)
			}
		})
	}
}

func TestNoCandidateTwice(t *testing.T) {
	for _, overhead := range []int{header4, header6} {
		sizes := candidates(Base, full, overhead)
		for i := range sizes[1:] {
			if sizes[i] >= sizes[i+1] || sizes[i+1]-sizes[i] > dataUnit {
				t.Errorf("candidates %d and %d", sizes[i], sizes[i+1])
			}
		}
	}
}

// What the host knows by itself needs no losses.
func TestTooBig(t *testing.T) {
	p := newPath(t, ethernet, header4)
	p.local = 1280
	p.step(Start{})
	p.run(10*p.rtt, false)
	p.want(1252)
}

// A path that shrinks and grows again is followed while it carries something large, and only then.
func TestFollow(t *testing.T) {
	p := newPath(t, ethernet, header4)
	p.step(Start{})
	p.run(5*time.Second, false)
	p.want(full)
	if !p.m.Watching() {
		t.Fatal("not watching")
	}

	probes := p.probes
	p.mtu = 1280
	p.run(time.Hour, false)
	p.want(full)
	if p.probes != probes {
		t.Errorf("%d probes on an idle path", p.probes-probes)
	}

	p.run(6*time.Second, true)
	p.want(1252)
	p.mtu = 1100
	p.run(6*time.Second, true)
	p.want(1072)

	p.mtu = ethernet
	p.run(2*minRaise, true)
	p.want(full)
	probes = p.probes
	p.run(time.Minute, true)
	if rate := p.probes - probes; rate > 62 {
		t.Errorf("%d probes a minute on a busy path, want one pair in %v", rate, checkInterval)
	}
}

// A limited path is searched upwards less and less often.
func TestRaise(t *testing.T) {
	p := newPath(t, 1280, header4)
	p.step(Start{})
	p.run(time.Minute, true)
	p.want(1252)
	p.run(2*time.Hour, true)
	p.want(1252)
	if p.m.raiseGap != maxRaise {
		t.Errorf("got an interval of %v, want %v", p.m.raiseGap, maxRaise)
	}
}

// Nobody answers: nothing is known, and little is sent.
func TestSilence(t *testing.T) {
	p := newPath(t, ethernet, header4)
	p.dead = true
	p.step(Start{})
	p.run(10*time.Second, true)
	p.want(0)
	probes := p.probes
	p.run(10*time.Minute, true)
	if n := p.probes - probes; n > 10*2*2*maxAttempts {
		t.Errorf("%d probes in 10 minutes", n)
	}
	p.dead = false
	p.run(time.Minute, true)
	p.want(full)

	// A path that dies is not taken for a small one.
	p.dead = true
	p.run(time.Minute, true)
	p.want(full)
}

// Losses and long round trips make no path small.
func TestLossyAndSlow(t *testing.T) {
	wrong := 0
	for seed := range uint64(200) {
		p := newPath(t, ethernet, header4)
		p.rand = rand.New(rand.NewPCG(seed, 0))
		p.loss = 0.1
		p.step(Start{})
		p.run(time.Minute, true)
		if p.m.Size() != full {
			wrong++
		}
	}
	if wrong > 20 {
		t.Errorf("%d of 200 lossy paths are taken for small", wrong)
	}
	for _, rtt := range []time.Duration{time.Millisecond, 300 * time.Millisecond, time.Second} {
		p := newPath(t, ethernet, header4)
		p.rtt = rtt
		p.step(Start{})
		p.run(10*time.Second, false)
		p.want(full)
		p = newPath(t, 1280, header4)
		p.rtt = rtt
		p.step(Start{})
		p.run(20*time.Second, false)
		p.want(1252)
	}
}

// Whatever happens, a machine ends its searches, and never takes a size for good that did not come through.
func FuzzMachine(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Add([]byte{200, 200, 200, 200, 1, 200, 200})
	f.Fuzz(func(t *testing.T, script []byte) {
		m, now := New(full, header4), time.Unix(1e9, 0)
		answered := map[int]bool{0: true, Base: true}
		pending := m.Step(now, Start{})
		for _, b := range script {
			now = now.Add(time.Duration(b) * 7 * time.Millisecond)
			var ev Event = Tick{}
			switch {
			case b%4 == 1 && len(pending) > 0:
				p := pending[int(b)%len(pending)]
				answered[p.Size] = true
				ev = Answered{p}
			case b%4 == 2 && len(pending) > 0:
				ev = TooBig{pending[int(b)%len(pending)]}
			case b%4 == 3:
				ev = Large{}
			}
			pending = append(pending, m.Step(now, ev)...)
			if !answered[m.Size()] {
				t.Fatalf("size %d, of which no probe was answered", m.Size())
			}
		}
		for range 100 {
			if m.Watching() {
				return
			}
			now = m.Next()
			m.Step(now, Tick{})
		}
		t.Error("the search does not end")
	})
}
