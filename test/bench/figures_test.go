package bench

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRatiosAreOfOneRound(t *testing.T) {
	var f figures
	// The machine is half as fast in the second round, and the third has no reference.
	for _, round := range []map[string]float64{{"plain": 100, "direct": 110}, {"plain": 50, "direct": 60}, {"direct": 90}} {
		f.begin()
		for _, v := range []string{"plain", "direct"} {
			if x, ok := round[v]; ok {
				f.add(v, "speed", x)
			}
		}
	}
	if diff := cmp.Diff([]float64{1.1, 1.2}, f.ratios("direct", "plain", "speed")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]float64{110, 60, 90}, f.values("direct", "speed")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := f.ratios("direct", "plain", "weight"); got != nil {
		t.Errorf("got %v for what nobody measured", got)
	}
	f.begin()
	f.add("plain", "speed", 0)
	f.add("direct", "speed", 1)
	if got := f.ratios("direct", "plain", "speed"); got != nil {
		t.Errorf("got %v, want none beside a zero", got)
	}
}

func TestSpread(t *testing.T) {
	tests := []struct {
		values []float64
		want   string
	}{
		{nil, "-"},
		{[]float64{7}, "7"},
		{[]float64{3, 1, 2}, "2 (1-3)"},
		{[]float64{4, 1, 2, 3}, "2.50 (1-4)"},
		{[]float64{0.9512, 1.0499, 0.5}, "0.95 (0.50-1.05)"},
		{[]float64{2617.64, 2000.2, 3100.9}, "2618 (2000-3101)"},
		{[]float64{0.0123, 12.345}, "6.18 (0.012-12.3)"},
	}
	for _, test := range tests {
		if got := spreadOf(test.values).String(); got != test.want {
			t.Errorf("%v: got %q, want %q", test.values, got, test.want)
		}
	}
	values := []float64{3, 1, 2}
	spreadOf(values)
	if !cmp.Equal(values, []float64{3, 1, 2}) {
		t.Error("the values were sorted in place")
	}
}

func TestPercentile(t *testing.T) {
	var hundred []float64
	for i := range 100 {
		hundred = append(hundred, float64(100-i))
	}
	for p, want := range map[float64]float64{0: 1, 50: 50, 99: 99, 100: 100} {
		if got := percentile(hundred, p); got != want {
			t.Errorf("%v of 100: got %v, want %v", p, got, want)
		}
	}
	if got := percentile(nil, 50); !math.IsNaN(got) {
		t.Errorf("none: got %v", got)
	}
}
