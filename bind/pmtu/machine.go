package pmtu

import (
	"slices"
	"time"
)

// Machine is the discovery on one path. It belongs to one goroutine, and takes the time from its caller.
type Machine struct {
	full     int // wanted
	overhead int // of IP and UDP
	size     int // the largest that came through; 0: unknown

	// A search: the round that runs, and what bounds the result.
	round   *round
	lo, hi  int  // lo comes through; hi does not
	raising bool // for more than what is known

	// Between two searches.
	rest     time.Time // until then nothing is sent; zero while watching
	raise    time.Time // when to search upwards again
	raiseGap time.Duration
	number   int
}

// New returns a machine for a path that is to carry datagrams of full bytes, if it can. Probes are of multiples of 4 bytes, as all STUN
// messages are, hence full is rounded up. The overhead is that of the headers of IP and UDP: 28 bytes with IPv4, 48 with IPv6.
func New(full, overhead int) *Machine {
	return &Machine{full: min((full+3)&^3, Max), overhead: overhead}
}

// Size returns the size of the largest datagram that is known to come through, 0 while none is.
func (m *Machine) Size() int { return m.size }

// Limited reports whether larger datagrams than Size are wanted and do not come through.
func (m *Machine) Limited() bool { return m.size > 0 && m.size < m.full }

// Searching reports whether a search is under way: Size may be about to change.
func (m *Machine) Searching() bool { return m.round != nil }

// Watching reports whether the machine waits for [Large], and for nothing else.
func (m *Machine) Watching() bool { return m.round == nil && m.rest.IsZero() }

// Next returns when a [Tick] is due, the zero time while it is watching.
func (m *Machine) Next() time.Time {
	if m.round != nil {
		return m.round.next()
	}
	return m.rest
}

// Step takes an event and returns the probes to send.
func (m *Machine) Step(now time.Time, ev Event) []Probe {
	switch ev := ev.(type) {
	case Start:
		return m.begin(now, m.full)
	case Large:
		if !m.Watching() {
			return nil
		}
		if m.size == 0 || m.Limited() && !now.Before(m.raise) {
			return m.begin(now, m.full)
		}
		return m.begin(now, m.size)
	case Answered:
		if m.round != nil {
			m.round.answered(now, ev.Probe)
		}
	case TooBig:
		if m.round != nil {
			m.round.fail(ev.Probe.Size)
		}
	}
	if m.round == nil {
		if !m.rest.IsZero() && !now.Before(m.rest) {
			m.rest = time.Time{}
		}
		return nil
	}
	return m.advance(now)
}

// begin starts a search with one size. A search that looks beyond what is known takes that for granted: should it have shrunk
// meanwhile, the next check shows it.
func (m *Machine) begin(now time.Time, size int) []Probe {
	m.rest = time.Time{}
	m.lo, m.hi, m.raising = Base, size+1, size > m.size
	if m.raising {
		m.lo = max(Base, m.size)
	}
	return m.start(now, []int{size})
}

// start begins a round.
func (m *Machine) start(now time.Time, sizes []int) []Probe {
	m.round = &round{first: m.number, sizes: sizes, failed: m.hi}
	return m.send(now)
}

// advance goes on with a round, or with the next one, or ends the search.
func (m *Machine) advance(now time.Time) []Probe {
	r := m.round
	if !r.decided(now) {
		switch {
		case now.Before(r.next()):
			return nil
		case len(r.bases) < maxAttempts:
			return m.send(now)
		}
		m.sleep(now, silentInterval)
		return nil
	}
	m.lo, m.hi = max(m.lo, r.passed), min(m.hi, r.failed)
	if between := candidates(m.lo, m.hi, m.overhead); len(between) > 0 {
		return m.start(now, spread(between))
	}
	m.end(now)
	return nil
}

// send makes the next attempt of the round: the base probe last, as its answer says that the others had their time.
func (m *Machine) send(now time.Time) []Probe {
	m.round.attempt(now)
	probes := make([]Probe, 0, width+1)
	for _, size := range m.round.open() {
		probes = append(probes, Probe{m.number, size})
	}
	probes = append(probes, Probe{m.number, Base})
	m.number++
	return probes
}

// end keeps the result of a search.
func (m *Machine) end(now time.Time) {
	switch {
	case m.lo != m.size:
		m.size, m.raiseGap = m.lo, minRaise
		m.raise = now.Add(m.raiseGap)
	case m.raising:
		m.raiseGap = min(2*m.raiseGap, maxRaise)
		m.raise = now.Add(m.raiseGap)
	}
	m.sleep(now, checkInterval)
}

// sleep sends nothing for a while, and then watches.
func (m *Machine) sleep(now time.Time, d time.Duration) {
	m.round, m.rest = nil, now.Add(d)
}

// commonMTUs are MTUs that links have, in bytes: IPv6's minimum, those of tunnels in each other, of DSL, of clouds.
var commonMTUs = []int{1280, 1300, 1360, 1380, 1400, 1420, 1440, 1452, 1460, 1472, 1476, 1480, 1492, 1500}

// candidates returns the sizes between lo and hi, both excluded, that are worth telling apart, in ascending order: those that let
// WireGuard carry 16 bytes more, and those that just fit a common link.
func candidates(lo, hi, overhead int) []int {
	var sizes []int
	for s := dataOverhead + (lo-dataOverhead)/dataUnit*dataUnit; s < hi; s += dataUnit {
		sizes = append(sizes, s)
	}
	for _, mtu := range commonMTUs {
		sizes = append(sizes, mtu-overhead)
	}
	slices.Sort(sizes)
	sizes = slices.Compact(sizes)
	return slices.DeleteFunc(sizes, func(s int) bool { return s <= lo || s >= hi })
}

// spread picks width of the sizes, as far apart from each other and from the ends as can be.
func spread(sizes []int) []int {
	if len(sizes) <= width {
		return sizes
	}
	picked := make([]int, width)
	for i := range picked {
		picked[i] = sizes[(i+1)*len(sizes)/(width+1)]
	}
	return picked
}
