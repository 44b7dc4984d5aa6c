package namespace

import (
	"bufio"
	"bytes"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	drainPatience = 3 * time.Second // without progress, as when the other end has gone
	drainTick     = 10 * time.Millisecond
)

// drain waits for what closed TCP connections still have to send, which the kernel would send also after the end of the process, but not after
// that of the namespace. It returns when that is done, when nothing has been acknowledged for a while, or when done is closed.
func drain(done <-chan struct{}) {
	tick := time.NewTicker(drainTick)
	defer tick.Stop()
	before, progress := unsentNow(), time.Now()
	for before > 0 && time.Since(progress) < drainPatience {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		if n := unsentNow(); n != before {
			before, progress = n, time.Now()
		}
	}
}

// unsentNow returns how many bytes of closed connections are not acknowledged; their ends count as one each.
func unsentNow() int {
	n := 0
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		if b, err := os.ReadFile(file); err == nil {
			n += unsent(b)
		}
	}
	return n
}

// unsent reads a table of connections: proc_net_tcp of the kernel's documentation.
//
//	sl  local_address rem_address   st tx_queue rx_queue ...
//	 0: 0100000A:9C40 0200000A:0050 04 00015F91:00000000 ...
func unsent(table []byte) int {
	const finWait1, lastAck, closing = "04", "09", "0B" // those that have said their end, but got no acknowledgement of it
	n := 0
	for lines := bufio.NewScanner(bytes.NewReader(table)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 5 || f[3] != finWait1 && f[3] != lastAck && f[3] != closing {
			continue
		}
		queue, _, _ := strings.Cut(f[4], ":")
		if bytes, err := strconv.ParseUint(queue, 16, 32); err == nil {
			n += int(bytes)
		}
	}
	return n
}
