package bench

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// figures are all that was measured, by round.
type figures struct {
	variants, metrics []string // in the order in which they came
	rounds            []map[figure]float64
}

// figure names one number of a round.
type figure struct{ variant, metric string }

// begin starts a round.
func (f *figures) begin() { f.rounds = append(f.rounds, make(map[figure]float64)) }

// add puts a number into the round that began last.
func (f *figures) add(variant, metric string, value float64) {
	if !slices.Contains(f.variants, variant) {
		f.variants = append(f.variants, variant)
	}
	if !slices.Contains(f.metrics, metric) {
		f.metrics = append(f.metrics, metric)
	}
	f.rounds[len(f.rounds)-1][figure{variant, metric}] = value
}

// values returns what the rounds have of one figure.
func (f *figures) values(variant, metric string) []float64 {
	var all []float64
	for _, round := range f.rounds {
		if v, ok := round[figure{variant, metric}]; ok {
			all = append(all, v)
		}
	}
	return all
}

// ratios returns the figure as a multiple of the reference's in the same round, for rounds that have both. There are none when any round has
// a zero: to leave that round out would choose which rounds count by what they show.
func (f *figures) ratios(variant, reference, metric string) []float64 {
	var all []float64
	for _, round := range f.rounds {
		v, ok := round[figure{variant, metric}]
		r, also := round[figure{reference, metric}]
		if !ok || !also {
			continue
		}
		if v == 0 || r == 0 {
			return nil
		}
		all = append(all, v/r)
	}
	return all
}

// spread sums several numbers up. The zero value is that of none.
type spread struct {
	n                int
	median, min, max float64
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return spread{n, (sorted[(n-1)/2] + sorted[n/2]) / 2, sorted[0], sorted[n-1]}
}

// String returns the median, and the extremes in parentheses where there is more than one number.
func (s spread) String() string {
	switch s.n {
	case 0:
		return "-"
	case 1:
		return short(s.median)
	}
	return fmt.Sprintf("%s (%s-%s)", short(s.median), short(s.min), short(s.max))
}

// short writes a number with three digits that count; whole ones with all of theirs.
func short(v float64) string {
	if v == math.Trunc(v) || math.Abs(v) >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	decimals := 2
	switch a := math.Abs(v); {
	case a >= 10:
		decimals = 1
	case a < 0.1:
		decimals = 3
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}

// percentile returns the smallest of the numbers that p of 100 do not exceed.
func percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}
