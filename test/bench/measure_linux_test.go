package bench

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/wice-go/wice-go/test/program"
)

// measure takes some figures of a pair.
type measure struct {
	name    string
	metrics []string // in the order of the tables
	take    func(p *pair, add func(metric string, value float64))
}

// measures are all there are, in the order of the tables.
var measures = []measure{
	tcp("tcp1", "TCP, 1 stream", 1, false),
	tcp("tcp1-back", "TCP, 1 stream back", 1, true),
	tcp("tcp8", "TCP, 8 streams", 8, false),
	tcp("tcp8-back", "TCP, 8 streams back", 8, true),
	stream("stream1", "TCP by our own program, 1 stream", 1, false),
	stream("stream1-back", "TCP by our own program, 1 stream back", 1, true),
	stream("stream8", "TCP by our own program, 8 streams", 8, false),
	stream("stream8-back", "TCP by our own program, 8 streams back", 8, true),
	{"udp", append([]string{udpTitle + lost}, costs(udpTitle)...), takeUDP},
	{"flood", []string{"TCP, 1 stream" + floodTitle + mbits, floodShare, udpTitle + floodTitle + lost}, takeFlood},
	{"ping", []string{"ping" + p50, "ping" + p99}, takePing},
	{"ping-loaded", []string{"ping beside TCP" + p50, "ping beside TCP" + p99}, takePingLoaded},
}

// What a metric's name ends with.
const (
	mbits       = ", Mbit/s"
	cpu         = ", CPU s/GB" // of both tunnel processes together
	relayCPU    = ", relay's CPU s/GB"
	retransmits = ", retransmits"
	lost        = ", lost %"
	p50         = ", p50 ms"
	p99         = ", p99 ms"
)

func costs(title string) []string { return []string{title + cpu, title + relayCPU} }

const (
	// The load of the measure udp: a third of what coturn carried in one go when this was written.
	udpRate  = "200M"
	udpSize  = 1200
	udpTitle = "UDP, 200 Mbit/s"
	// pings in a second: enough for a 99th percentile, too few to be a load.
	pingRate = 200
)

func chooseMeasures(chosen string) ([]measure, error) {
	if chosen == "" {
		return measures, nil
	}
	return choose("measure", chosen, measures, func(m measure) string { return m.name })
}

// tcp measures what arrives, what that costs, and what is sent twice. Back is from the second end to the first. Where there is no tunnel,
// as many UDP packets as get through take the place of one stream.
func tcp(name, title string, streams int, back bool) measure {
	take := func(p *pair, add func(string, float64)) {
		if p.raw != nil && streams > 1 || p.variant.kind.socks { // which iperf3 doesn't speak
			return
		}
		args := []string{"-P", strconv.Itoa(streams)}
		from, to := 0, 1
		if back {
			args = append(args, "-R")
			from, to = 1, 0
		}
		before := p.state()
		var bytes int64
		var rate float64
		if p.raw != nil {
			bytes, rate = p.raw.blast(p.t, from, to, time.Duration(*seconds)*time.Second)
		} else {
			report := p.iperf3(args...)
			bytes, rate = report.Received.Bytes, report.Received.BitsPerSecond
			if p.interfaceAt(0) { // else they are those of a connection on loopback
				add(title+retransmits, float64(report.Sent.Retransmits))
			}
		}
		c := p.carried(before, p.state(), from, to, bytes)
		add(title+mbits, rate/1e6)
		p.addCost(title, c, bytes, add)
	}
	return measure{name, append(append([]string{title + mbits}, costs(title)...), title+retransmits), take}
}

// addCost adds the CPU time for so many bytes.
func (p *pair) addCost(title string, c cost, bytes int64, add func(string, float64)) {
	p.t.Helper()
	if bytes == 0 {
		p.t.Fatalf("%v: %s: nothing arrived", p.variant, title)
	}
	gigabytes := float64(bytes) / 1e9
	if p.raw == nil {
		add(title+cpu, c.tunnels.Seconds()/gigabytes)
	}
	if p.relay != nil {
		add(title+relayCPU, c.relay.Seconds()/gigabytes)
	}
}

// takeUDP measures what is lost at a rate that is fixed.
func takeUDP(p *pair, add func(string, float64)) {
	if !p.interfaceAt(0) {
		return
	}
	before := p.state()
	report := p.iperf3("-u", "-b", udpRate, "-l", strconv.Itoa(udpSize))
	bytes := (report.UDP.Packets - report.UDP.LostPackets) * udpSize
	c := p.carried(before, p.state(), 0, 1, bytes)
	add(udpTitle+lost, report.UDP.LostPercent)
	p.addCost(udpTitle, c, bytes, add)
}

// takePing measures round trips of a tunnel that does nothing else.
func takePing(p *pair, add func(string, float64)) {
	if !p.interfaceAt(0) {
		return
	}
	p.ping("ping", add)
	p.samePath()
}

// takePingLoaded measures round trips beside one TCP stream at full speed.
func takePingLoaded(p *pair, add func(string, float64)) {
	if !p.interfaceAt(0) {
		return
	}
	before := p.state()
	// It lasts until it is stopped.
	load := start(p.t, p.ends[0].host, nil, "iperf3", "-c", p.ends[1].addr.String(), "-p", iperf3Port, "-t", strconv.Itoa(*seconds+60))
	until(p.t, "the stream begins", func() error {
		if got := interfaces(p.t, p.ends[1].host)[iface].rx - before.inner[1].rx; got < 1e6 {
			return fmt.Errorf("%d bytes arrived\n%s", got, &load.out)
		}
		return nil
	})
	p.ping("ping beside TCP", add)
	if load.ended() {
		p.t.Fatalf("%v: the stream ended before the pings did: %s", p.variant, &load.out)
	}
	load.stop()
	p.serverReady()
	p.samePath()
}

func (p *pair) ping(title string, add func(string, float64)) {
	p.t.Helper()
	count := *seconds * pingRate
	// The deadline, and not lost answers, ends it; then the exit code says that some are missing.
	out, err := output(p.t, p.ends[0].host, "ping", "-n", "-i", fmt.Sprint(1.0/pingRate), "-c", strconv.Itoa(count), "-w", strconv.Itoa(*seconds+1), p.ends[1].addr.String())
	times := parsePings(out)
	if len(times) < count/2 {
		p.t.Fatalf("%v: %s: %d answers to %d pings: %v", p.variant, title, len(times), count, err)
	}
	add(title+p50, percentile(times, 50))
	add(title+p99, percentile(times, 99))
}

// iperf3 sends from the first end to the second unless the arguments say otherwise.
func (p *pair) iperf3(args ...string) program.Iperf3 {
	p.t.Helper()
	argv := p.client(append([]string{"iperf3", "-c", p.serverAddr().String(), "-p", iperf3Port, "-J", "-t", strconv.Itoa(*seconds)}, args...)...)
	out, err := output(p.t, p.ends[0].host, argv[0], argv[1:]...)
	report, perr := program.ParseIperf3([]byte(out))
	if err := errors.Join(perr, err); err != nil {
		p.t.Fatalf("%v: %v", p.variant, err)
	}
	p.serverReady()
	return report
}
