package bench

import (
	"fmt"
	"slices"
	"strings"
)

// The lines between which a document has the tables.
const (
	beginMark = "<!-- whole-tunnels: begin -->"
	endMark   = "<!-- whole-tunnels: end -->"
)

// comparison asks for the figures of a variant as multiples of another's.
type comparison struct{ variant, reference string }

func (c comparison) String() string { return c.variant + " / " + c.reference }

// valueTable has a line for each metric, and a column for each variant.
func (f *figures) valueTable() string {
	return f.table(f.variants, func(metric string, column int) spread {
		return spreadOf(f.values(f.variants[column], metric))
	})
}

// ratioTable has a column for each comparison.
func (f *figures) ratioTable(comparisons []comparison) string {
	var heads []string
	for _, c := range comparisons {
		heads = append(heads, c.String())
	}
	return f.table(heads, func(metric string, column int) spread {
		c := comparisons[column]
		return spreadOf(f.ratios(c.variant, c.reference, metric))
	})
}

// table writes Markdown that is aligned for readers of the source too. Lines without any number are left out.
func (f *figures) table(heads []string, cell func(metric string, column int) spread) string {
	rows := [][]string{append([]string{""}, heads...), slices.Repeat([]string{"---"}, len(heads)+1)}
	for _, metric := range f.metrics {
		row, any := []string{metric}, false
		for column := range heads {
			s := cell(metric, column)
			any = any || s.n > 0
			row = append(row, s.String())
		}
		if any {
			rows = append(rows, row)
		}
	}
	widths := make([]int, len(heads)+1)
	for _, row := range rows {
		for i, text := range row {
			widths[i] = max(widths[i], len(text))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		for i, text := range row {
			fmt.Fprintf(&b, "| %-*s ", widths[i], text)
		}
		b.WriteString("|\n")
	}
	return b.String()
}

// replaceTables returns the document with the text in place of what stands between the marks.
func replaceTables(document, text string) (string, error) {
	head, rest, begins := strings.Cut(document, beginMark+"\n")
	_, tail, ends := strings.Cut(rest, endMark)
	if !begins || !ends {
		return "", fmt.Errorf("put the lines %q and %q where the tables belong: the document lacks them, or their order is wrong", beginMark, endMark)
	}
	return head + beginMark + "\n" + strings.TrimRight(text, "\n") + "\n" + endMark + tail, nil
}
