package bench

import (
	"fmt"
	"strconv"

	"github.com/wice-go/wice-go/test/program"
)

// measure takes some figures of a pair.
type measure struct {
	name string
	take func(p *pair, add func(metric string, value float64))
}

// measures are all there are, in the order of the tables.
var measures = []measure{
	{"tcp1", takeTCP("TCP, 1 stream", 1, false)},
	{"tcp1-back", takeTCP("TCP, 1 stream back", 1, true)},
	{"tcp8", takeTCP("TCP, 8 streams", 8, false)},
	{"tcp8-back", takeTCP("TCP, 8 streams back", 8, true)},
}

func chooseMeasures(chosen string) ([]measure, error) {
	if chosen == "" {
		return measures, nil
	}
	return choose("measure", chosen, measures, func(m measure) string { return m.name })
}

// takeTCP measures what arrives, what that costs, and what is sent twice. Back is from the second end to the first.
func takeTCP(title string, streams int, back bool) func(*pair, func(string, float64)) {
	return func(p *pair, add func(string, float64)) {
		args := []string{"-P", strconv.Itoa(streams)}
		from, to := 0, 1
		if back {
			args = append(args, "-R")
			from, to = 1, 0
		}
		before := p.state()
		report := p.iperf3(args...)
		cost := p.carried(before, p.state(), from, to, report.Received.Bytes)
		gigabytes := float64(report.Received.Bytes) / 1e9
		if gigabytes == 0 {
			p.t.Fatalf("%v: %s: nothing arrived", p.variant, title)
		}
		add(title+", Mbit/s", report.Received.BitsPerSecond/1e6)
		add(title+", CPU s/GB", cost.tunnels.Seconds()/gigabytes)
		add(title+", retransmits", float64(report.Sent.Retransmits))
		if p.turn != nil {
			add(title+", coturn's CPU s/GB", cost.relay.Seconds()/gigabytes)
		}
	}
}

// iperf3 sends from the first end to the second unless the arguments say otherwise.
func (p *pair) iperf3(args ...string) program.Iperf3 {
	p.t.Helper()
	a, b := p.ends[0], p.ends[1]
	out, err := output(p.t, a.host, "iperf3", append([]string{"-c", b.addr.String(), "-J", "-t", strconv.Itoa(*seconds)}, args...)...)
	report, perr := program.ParseIperf3([]byte(out))
	if err != nil || perr != nil {
		p.t.Fatalf("%v: %v", p.variant, fmt.Errorf("%w (%w)", perr, err))
	}
	p.serverReady()
	return report
}
