package bench

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTables(t *testing.T) {
	var f figures
	for _, x := range []float64{1, 2, 4} {
		f.begin()
		f.add("plain", "TCP, Mbit/s", 1000*x)
		f.add("plain", "lost, %", 0)
		f.add("direct", "TCP, Mbit/s", 1000*x+100)
	}
	want := `|             | plain            | direct           |
| ---         | ---              | ---              |
| TCP, Mbit/s | 2000 (1000-4000) | 2100 (1100-4100) |
| lost, %     | 0 (0-0)          | -                |
`
	if diff := cmp.Diff(want, f.valueTable()); diff != "" {
		t.Errorf("values: -want +got:\n%s", diff)
	}
	want = `|             | direct / plain   |
| ---         | ---              |
| TCP, Mbit/s | 1.05 (1.02-1.10) |
`
	if diff := cmp.Diff(want, f.ratioTable([]comparison{{"direct", "plain"}})); diff != "" {
		t.Errorf("ratios: -want +got:\n%s", diff)
	}
}

func TestReplaceTables(t *testing.T) {
	document := "# A\n\n" + beginMark + "\nold\n\nold\n" + endMark + "\n\nmore\n"
	want := "# A\n\n" + beginMark + "\nnew\n" + endMark + "\n\nmore\n"
	once, err := replaceTables(document, "new\n\n")
	if err != nil || once != want {
		t.Errorf("got %q, %v, want %q", once, err, want)
	}
	if twice, err := replaceTables(once, "new"); err != nil || twice != want {
		t.Errorf("again: got %q, %v, want %q", twice, err, want)
	}
	for _, bad := range []string{"", beginMark + "\n", endMark + "\n" + beginMark + "\n"} {
		if _, err := replaceTables(bad, "new"); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}
