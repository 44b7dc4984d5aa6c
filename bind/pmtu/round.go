package pmtu

import (
	"slices"
	"time"
)

// round tells which of some sizes come through. All that are still open are sent at each attempt, so that their losses are counted
// together: by the base probes that were answered.
type round struct {
	first  int   // number of the first attempt
	sizes  []int // ascending
	passed int   // the largest that was answered
	failed int   // the smallest that is given up

	bases []time.Time // of each attempt: when its base probe was answered; zero: not yet
	due   time.Time   // of the next attempt
}

// attempt notes one more, and when the next one is due.
func (r *round) attempt(now time.Time) {
	r.bases = append(r.bases, time.Time{})
	r.due = now.Add(min(probeInterval<<max(0, len(r.bases)-maxLosses), maxInterval))
}

// open returns the sizes of which nothing is known yet.
func (r *round) open() []int {
	return slices.DeleteFunc(slices.Clone(r.sizes), func(s int) bool { return s <= r.passed || s >= r.failed })
}

func (r *round) answered(now time.Time, p Probe) {
	i := p.Number - r.first
	if i < 0 || i >= len(r.bases) {
		return // of a round that is over
	}
	if p.Size == Base {
		if r.bases[i].IsZero() {
			r.bases[i] = now
		}
		return
	}
	r.passed = max(r.passed, p.Size)
}

// fail gives a size up, and all above it.
func (r *round) fail(size int) {
	if size > Base {
		r.failed = min(r.failed, size)
	}
}

// settled returns when the open sizes are lost for good, the zero time while too few base probes are answered.
func (r *round) settled() time.Time {
	var answers []time.Time
	for _, t := range r.bases {
		if !t.IsZero() {
			answers = append(answers, t)
		}
	}
	if len(answers) < maxLosses {
		return time.Time{}
	}
	slices.SortFunc(answers, time.Time.Compare)
	return answers[maxLosses-1].Add(reordering)
}

// decided reports whether nothing is open any more; what was not answered in time has failed.
func (r *round) decided(now time.Time) bool {
	open := r.open()
	if len(open) == 0 {
		return true
	}
	if t := r.settled(); t.IsZero() || now.Before(t) {
		return false
	}
	r.fail(open[0])
	return true
}

// next returns when there is something to do.
func (r *round) next() time.Time {
	if t := r.settled(); !t.IsZero() {
		return t
	}
	return r.due
}
