package bench

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of times in /proc: USER_HZ, 100 on every architecture that Go knows.
const clockTick = 10 * time.Millisecond

// parseCPU returns the time that a process has used in user and kernel mode, from /proc/PID/stat.
func parseCPU(stat string) (time.Duration, error) {
	// The command name, in parentheses, may hold anything. After it utime and stime are the fields 12 and 13 (proc(5) counts 14 and 15).
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("read the times of a process: %q is too short", stat)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the times of a process: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// traffic is what went through an interface, in bytes.
type traffic struct{ rx, tx int64 }

// parseInterfaces returns the counters of every interface, from /proc/PID/net/dev.
func parseInterfaces(dev string) (map[string]traffic, error) {
	all := make(map[string]traffic)
	for line := range strings.Lines(dev) {
		name, counters, ok := strings.Cut(line, ":")
		if !ok {
			continue // one of two lines of heads
		}
		fields := strings.Fields(counters)
		if len(fields) < 9 {
			return nil, fmt.Errorf("read interfaces: %q is too short", line)
		}
		var t traffic
		for i, to := range map[int]*int64{0: &t.rx, 8: &t.tx} {
			n, err := strconv.ParseInt(fields[i], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("read interfaces: %w", err)
			}
			*to = n
		}
		all[strings.TrimSpace(name)] = t
	}
	return all, nil
}

var pingTime = regexp.MustCompile(`(?m)^\d+ bytes from .* time=([0-9.]+) ms$`)

// parsePings returns the round trips that ping(8) of iputils printed, in milliseconds.
func parsePings(out string) []float64 {
	var all []float64
	for _, m := range pingTime.FindAllStringSubmatch(out, -1) {
		if v, err := strconv.ParseFloat(m[1], 64); err == nil {
			all = append(all, v)
		}
	}
	return all
}
