package bench

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/wice-go/wice-go/test/natlab"
)

// TestTunnels measures whole tunnels and compares them.
func TestTunnels(t *testing.T) {
	if !*measureTunnels {
		t.Skip("takes minutes: run make bench-tunnels, or give go test the arguments -args -tunnels")
	}
	builds, err := parseBinaries(os.Getenv(binariesVariable))
	if err != nil {
		t.Fatal(err)
	}
	all, err := variants(*chosenVariants, builds)
	if err != nil {
		t.Fatal(err)
	}
	ms, err := chooseMeasures(*chosenMeasures)
	if err != nil {
		t.Fatal(err)
	}
	f := compare(t, all, ms, *rounds)
	text := report(f, all)
	t.Logf("\n%s", text)
	if *tableFile == "" {
		return
	}
	if t.Failed() {
		t.Fatalf("%s stays as it is, as a round failed", *tableFile)
	}
	document, err := os.ReadFile(*tableFile)
	if err != nil {
		t.Fatal(err)
	}
	changed, err := replaceTables(string(document), text)
	if err != nil {
		t.Fatalf("%s: %v", *tableFile, err)
	}
	if err := os.WriteFile(*tableFile, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
}

// report is the text with all tables.
func report(f *figures, all []variant) string {
	text := fmt.Sprintf("Rounds: %d, of %d s for each measure; the median, and the extremes in parentheses. %s\n\n%s", len(f.rounds), *seconds, machine(), f.valueTable())
	with, others := comparisons(all, *reference)
	if len(with) > 0 {
		text += fmt.Sprintf("\nRatios to %s, each of two figures of one round:\n\n%s", *reference, f.ratioTable(with))
	}
	if len(others) > 0 {
		text += fmt.Sprintf("\nOther ratios:\n\n%s", f.ratioTable(others))
	}
	return text
}

// TestSmoke shows that the harness works: one round of TCP for a tunnel of each kind, and of all else for one of them.
func TestSmoke(t *testing.T) {
	if *measureTunnels {
		t.Skip("the real measurements run")
	}
	*seconds = 1 // iperf3 knows no less
	for _, c := range []struct{ variants, measures string }{
		{"plain,direct,relay-udp,relay-own,naive-relay,raw-relay", "tcp1"},
		{"direct", "udp,flood,ping,ping-loaded"},
	} {
		all, err := variants(c.variants, nil)
		if err != nil {
			t.Fatal(err)
		}
		ms, err := chooseMeasures(c.measures)
		if err != nil {
			t.Fatal(err)
		}
		f := compare(t, all, ms, 1)
		for _, v := range all {
			for _, m := range ms {
				if f.values(v.String(), m.metrics[0]) == nil {
					t.Errorf("%v: %s was not measured", v, m.name)
				}
			}
		}
		t.Logf("\n%s", report(f, all))
	}
}

// compare takes the measures in rounds. A round that fails ends early, and the others count.
func compare(t *testing.T, all []variant, ms []measure, rounds int) *figures {
	t.Helper()
	natlab.Need(t)
	for _, tool := range [][2]string{{"wg", "wireguard-tools"}, {"iperf3", "iperf3"}, {"ping", "iputils-ping"}} {
		if _, err := exec.LookPath(tool[0]); err != nil {
			t.Fatalf("%s is missing: install the package %s, or run make deps", tool[0], tool[1])
		}
	}
	f := new(figures)
	for _, v := range all {
		f.variants = append(f.variants, v.String())
	}
	for _, m := range ms {
		f.metrics = append(f.metrics, m.metrics...)
	}
	for round := range rounds {
		f.begin()
		t.Run(fmt.Sprintf("round %d", round+1), func(t *testing.T) {
			exclusively(t, func() { f.round(t, all, ms) })
		})
	}
	return f
}

// round takes the measures of all variants once. The tunnels are made anew each time, as what is luck of one process (where its memory
// lies, which core its threads like) must not be taken for what it is worth; and the order is another one each time.
func (f *figures) round(t *testing.T, all []variant, ms []measure) {
	t.Helper()
	var pairs []*pair
	for _, v := range all {
		p := newPair(t, v)
		t.Logf("%v: %s", v, p.seen)
		pairs = append(pairs, p)
	}
	for _, m := range ms {
		for _, i := range rand.Perm(len(pairs)) {
			p := pairs[i]
			m.take(p, func(metric string, value float64) {
				t.Logf("%v: %s: %s", p.variant, metric, short(value))
				f.add(p.variant.String(), metric, value)
			})
		}
	}
}

// exclusively calls f while the file of the flag -lock is locked.
func exclusively(t *testing.T, f func()) {
	t.Helper()
	if *lockFile == "" {
		f()
		return
	}
	lock, err := os.OpenFile(*lockFile, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close() // which unlocks
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatalf("lock %s: %v", *lockFile, err)
	}
	f()
}

// machine says what was measured on.
func machine() string {
	var name syscall.Utsname
	_ = syscall.Uname(&name)
	var release strings.Builder
	for _, c := range name.Release {
		if c == 0 {
			break
		}
		release.WriteByte(byte(c))
	}
	return fmt.Sprintf("Cores: %d, for both ends and all between them; Linux %s.", runtime.NumCPU(), release.String())
}
