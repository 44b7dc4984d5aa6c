package bench

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/wice-go/wice-go/test/program"
)

// The flags of "go test ./test/bench -args ...". Constant after TestMain.
var (
	measureTunnels = flag.Bool("tunnels", false, "measure whole tunnels; else only a smoke test of the harness runs")
	measurePeers   = flag.Int("peers", 0, "measure an interface with so many peers; 0: a test with fewer, without figures")
	rounds         = flag.Int("rounds", 5, "how often each variant is measured")
	seconds        = flag.Int("seconds", 2, "how long a single measurement takes")
	chosenVariants = flag.String("variants", "", "variants to measure, with commas between them (default: all)")
	chosenMeasures = flag.String("measures", "", "measures to take, with commas between them (default: all)")
	reference      = flag.String("reference", "plain", "the variant that the others are compared with")
	tableFile      = flag.String("write", "", "a document that gets the tables, between two marks")
	lockFile       = flag.String("lock", "", "a file to lock (see flock(2)) during every round, so that runs on one machine take turns")
)

// binariesVariable names more builds of wice-go to be measured beside the one of this checkout: "new=/path/wice-go,old=/path/wice-go".
const binariesVariable = "WICE_BENCH_BINARIES"

// programs is where the programs are built; constant after TestMain.
var programs string

// TestMain runs the tests, or the naive relay in a process that the harness has started for that.
func TestMain(m *testing.M) {
	if config := os.Getenv(naiveVariable); config != "" {
		if err := naive(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "wice-bench-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	programs = dir
	return m.Run()
}

// The programs are built at most once, without the race detector, which would be all that is measured.
var (
	wiceGo      = sync.OnceValues(func() (string, error) { return built("wice-go", program.WiceGo) })
	wireguardGo = sync.OnceValues(func() (string, error) { return built("wireguard-go", program.WireGuardGo) })
)

func built(name, command string) (string, error) {
	file := filepath.Join(programs, name)
	return file, program.Build(file, command)
}

// build is a wice-go that was made before.
type build struct{ name, file string }

// parseBinaries reads binariesVariable's value.
func parseBinaries(text string) ([]build, error) {
	var all []build
	for part := range strings.SplitSeq(text, ",") {
		if part == "" {
			continue
		}
		name, file, ok := strings.Cut(part, "=")
		if !ok || name == "" || strings.ContainsAny(name, "/ ") {
			return nil, fmt.Errorf("%s: %q is not of the form NAME=FILE", binariesVariable, part)
		}
		if !filepath.IsAbs(file) {
			return nil, fmt.Errorf("%s: %q: the tests run in another directory: name the file by its whole path", binariesVariable, part)
		}
		info, err := os.Stat(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", binariesVariable, err)
		}
		if info.IsDir() || info.Mode()&0o111 == 0 {
			return nil, fmt.Errorf("%s: %s is not a program", binariesVariable, file)
		}
		all = append(all, build{name, file})
	}
	return all, nil
}
