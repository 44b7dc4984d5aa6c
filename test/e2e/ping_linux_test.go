package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/wice-go/wice-go/test/program"
)

// pingStep is the time between two pings of a stream.
const pingStep = 50 * ms

// pingStream is a ping that runs beside a test.
type pingStream struct {
	n      *node
	cmd    *exec.Cmd
	out    *program.Buffer
	exited chan struct{}
}

// pingStream starts to ping the address, and returns when the first answer has come.
func (n *node) pingStream(to netip.Addr) *pingStream {
	n.w.t.Helper()
	s := &pingStream{n: n, out: new(program.Buffer), exited: make(chan struct{})}
	s.cmd = n.host.Command(context.Background(), "ping", "-n", "-D", "-i", fmt.Sprint(pingStep.Seconds()), to.String())
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	if err := s.cmd.Start(); err != nil {
		n.w.t.Fatalf("ping: %v", err)
	}
	go func() {
		_ = s.cmd.Wait() // it fails when something was lost
		close(s.exited)
	}()
	n.w.t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.exited
	})
	n.w.until(patience, n.name+" gets answers from "+to.String(), func() (bool, string) {
		return len(s.replies()) > 0, s.out.String()
	})
	return s
}

type reply struct {
	at  time.Time
	seq int
}

// replyLine is one of "ping -D": the time, and the number of the request.
var replyLine = regexp.MustCompile(`(?m)^\[(\d+)\.(\d{6})\] \d+ bytes from .* icmp_seq=(\d+) `)

func (s *pingStream) replies() []reply {
	var all []reply
	for _, m := range replyLine.FindAllStringSubmatch(s.out.String(), -1) {
		sec, _ := strconv.ParseInt(m[1], 10, 64)
		micro, _ := strconv.ParseInt(m[2], 10, 64)
		seq, _ := strconv.Atoi(m[3])
		all = append(all, reply{time.Unix(sec, micro*1000), seq})
	}
	return all
}

// repliesAfter waits for so many answers to requests that were sent from now on.
func (s *pingStream) repliesAfter(count int) {
	s.n.w.t.Helper()
	from := time.Now()
	s.n.w.until(patience, fmt.Sprintf("%s gets %d more answers", s.n.name, count), func() (bool, string) {
		more := 0
		for _, r := range s.replies() {
			if r.at.After(from) {
				more++
			}
		}
		return more >= count, program.Tail(s.out.String(), 3)
	})
}

// stop ends the stream and returns how many of the requests up to the last answer got none, and the longest time without an answer.
func (s *pingStream) stop() (lost int, outage time.Duration) {
	s.n.w.t.Helper()
	_ = s.cmd.Process.Signal(os.Interrupt)
	<-s.exited
	all := s.replies()
	answered, last := make(map[int]bool), 0
	for i, r := range all {
		answered[r.seq] = true
		last = max(last, r.seq)
		if i > 0 {
			outage = max(outage, r.at.Sub(all[i-1].at))
		}
	}
	return last - len(answered), outage
}

// text is what the stream printed, for messages.
func (s *pingStream) text() string { return strings.TrimSpace(program.Tail(s.out.String(), 20)) }
