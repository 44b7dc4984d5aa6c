package e2e

import (
	"context"
	"strings"
	"testing"

	"github.com/wice-go/wice-go/test/natlab"
	"github.com/wice-go/wice-go/test/program"
)

// TCP and UDP streams through a direct and a relayed tunnel come to their end.
func TestIperf3(t *testing.T) {
	needTool(t, "iperf3")
	for _, kind := range []natlab.NAT{natlab.PortRestricted, natlab.Symmetric} {
		t.Run(kind.String(), func(t *testing.T) {
			w := newWorld(t, natlab.Config{A: natlab.Site{NAT: kind}, B: natlab.Site{NAT: kind}})
			w.rendezvous()
			na, nb := w.node(w.lab.A[0]), w.node(w.lab.B[0])
			join(na, nb)
			na.up()
			nb.up("--wait")
			want := map[natlab.NAT]string{natlab.PortRestricted: "direct", natlab.Symmetric: "relay"}[kind]
			nb.peerUntil(na, "by a "+want+" path", func(p peerStatus) bool { return p.Path != nil && p.Path.Kind == want })
			tcp := iperf3(na, nb, "-t", "2")
			back := iperf3(na, nb, "-t", "2", "-R")
			udp := iperf3(na, nb, "-t", "2", "-u", "-b", "50M", "-l", "1200")
			t.Logf("%s: TCP %.0f Mbit/s, back %.0f Mbit/s; UDP %.0f Mbit/s with %.2f %% lost", want,
				tcp.Received.BitsPerSecond/1e6, back.Received.BitsPerSecond/1e6, udp.UDP.BitsPerSecond/1e6, udp.UDP.LostPercent)
			if tcp.Received.Bytes == 0 || back.Received.Bytes == 0 || udp.UDP.Bytes == 0 || udp.UDP.LostPercent > 90 { // a busy machine loses a lot in buffers
				t.Errorf("got TCP %+v, back %+v, UDP %+v", tcp, back, udp)
			}
			if p := nb.connected(na); p.Restarts != 0 || p.Path.Kind != want {
				t.Errorf("the load changed the path: %v", p)
			}
		})
	}
}

// iperf3 measures from one node to the other.
func iperf3(from, to *node, args ...string) program.Iperf3 {
	from.w.t.Helper()
	return iperf3While(from, to, func() {}, args...)
}

// iperf3While measures as iperf3 does, and runs f once it is under way. Both have to come to their end.
func iperf3While(from, to *node, f func(), args ...string) program.Iperf3 {
	from.w.t.Helper()
	ctx, cancel := context.WithTimeout(from.w.t.Context(), 2*patience)
	defer cancel()
	server := to.host.Command(ctx, "iperf3", "-s", "-1", "-B", to.addr.String(), "--forceflush")
	listening := new(program.Buffer)
	server.Stdout, server.Stderr = listening, listening
	if err := server.Start(); err != nil {
		from.w.t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = server.Wait()
	}()
	from.w.until(patience, "iperf3 listens", func() (bool, string) {
		return strings.Contains(listening.String(), "Server listening"), listening.String()
	})
	out := new(program.Buffer)
	client := from.host.Command(ctx, "iperf3", append([]string{"-c", to.addr.String(), "-J"}, args...)...)
	client.Stdout, client.Stderr = out, out
	if err := client.Start(); err != nil {
		from.w.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- client.Wait() }()
	from.w.until(patience, "iperf3 is under way", func() (bool, string) {
		return strings.Contains(listening.String(), "Accepted connection"), listening.String() + out.String()
	})
	f()
	if len(ended) > 0 {
		from.w.t.Log("this machine is slow: iperf3 ended before what it was to accompany")
	}
	err := <-ended
	report, parseErr := program.ParseIperf3([]byte(out.String()))
	if err != nil || parseErr != nil {
		from.w.t.Fatalf("iperf3: %v, %v\n%s\nserver: %s", err, parseErr, out, listening)
	}
	return report
}
